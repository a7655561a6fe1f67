"""Kills a run at random moments, up to four times in a row."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.attack.runs import stream, toy
from benchmarks.attack.trials import Trial, dice

TRIALS, QUICK = 80, 5


def attack(folder: Path, numbers: range, seed: int) -> Iterator[Trial]:
    """Each run of a trial continues what the killed one before it left; the last has to finish."""
    targets = [toy(folder / "toy"), stream(folder / "stream")]
    lengths: list[float] = []
    for whole in targets:
        whole.start_anew()
        began = time.monotonic()
        whole.run().wait()
        lengths.append(time.monotonic() - began)
    for number in numbers:
        which, chance = int(number % 4 == 3), dice("random_kills", seed, number)
        whole, moments = targets[which], [chance.random() * lengths[which] for _ in range(chance.randint(1, 4))]
        whole.start_anew()
        for moment in moments:
            child = whole.run()
            time.sleep(moment)
            child.kill()
            child.wait()
        after = ", ".join(f"{moment:.3f}" for moment in moments)
        yield Trial(number, f"{whole.folder.name}: killed after {after} s", whole.lost(whole.run().wait()))
