"""Four runs of one config in one output folder at once, while a file that they read is changed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

from benchmarks.attack.runs import Results, Whole, difference, results, toy
from benchmarks.attack.trials import Trial, dice

TRIALS, QUICK = 30, 2
RUNS = 4


def attack(folder: Path, numbers: range, seed: int) -> Iterator[Trial]:
    """Every run has to finish, or to name the changed file; every step has to hold the bytes of its key."""
    whole = toy(folder / "toy")
    file = whole.folder / "acts.npy"
    contents, known = [file.read_bytes()], [whole.results]
    contents.append(contents[0][:-1] + bytes([contents[0][-1] ^ 1]))
    _overwrite(file, contents[1])
    whole.start_anew()
    whole.run().wait()
    known.append(results(whole.out))
    for number in numbers:
        chance = dice("races", seed, number)
        moments = sorted(chance.random() * 4 for _ in range(chance.randint(1, 3)))
        _overwrite(file, contents[0])
        whole.start_anew()
        after = ", ".join(f"{moment:.3f}" for moment in moments)
        yield Trial(number, f"acts.npy changed after {after} s", _race(whole, file, contents, known, moments, chance))


def _race(
    whole: Whole, file: Path, contents: list[bytes], known: list[Results], moments: list[float], chance: Random
) -> str:
    """What went wrong in one race; the file holds one of two contents at any time."""
    began, now = time.monotonic(), 0
    children = []
    for i in range(RUNS):
        children.append(whole.run(printed=f"printed-{i}.txt"))
        time.sleep(chance.random() * 0.2)
    for moment in moments:
        time.sleep(max(0.0, began + moment - time.monotonic()))
        now = 1 - now
        _overwrite(file, contents[now])
    failure = ""
    for ended in [child.wait(300) for child in children]:
        if ended.code and not (ended.refusal and "acts.npy" in ended.refusal):
            failure = failure or f"neither finished nor named the file, {ended.told()}"
    last = whole.run().wait()
    found, both = results(whole.out), known[0] | known[1]
    expected = {name: both[name] for name in found if name in both} | known[now]
    return failure or (f"the last run failed, {last.told()}" if last.code else difference(found, expected))


def _overwrite(file: Path, content: bytes) -> None:
    """Changes the bytes that differ in one write, so that nobody reads a mixture of two contents."""
    if not file.is_file() or file.stat().st_size != len(content):
        file.write_bytes(content)
        return
    with file.open("rb+") as f:
        os.pwrite(f.fileno(), content[-4:], len(content) - 4)
