"""Fills the disk at a random moment of a run; with space again, the same command has to finish."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.attack.events import at_event
from benchmarks.attack.kills import changes
from benchmarks.attack.no_space import WAYS, fill_disk, is_possible
from benchmarks.attack.runs import Whole, stream, toy
from benchmarks.attack.trials import Trial, dice

TRIALS, QUICK = 120, 8


def attack(folder: Path, numbers: range, seed: int) -> Iterator[Trial]:
    """A run on a full disk has to end in one line that names a file."""
    if not is_possible():
        return
    targets = [(whole, len(changes(whole))) for whole in (toy(folder / "toy"), stream(folder / "stream"))]
    for number in numbers:
        chance = dice("full_disk", seed, number)
        whole, moments = targets[number % 4 == 3]
        at, way = chance.randrange(moments), chance.choice(WAYS)
        yield Trial(number, f"{whole.folder.name}: no space to {way} from change {at} on", _fail(whole, at, way))


def _fail(whole: Whole, at: int, way: str) -> str:
    whole.start_anew()
    ended = whole.run(before=at_event(at, whole.out, lambda: fill_disk(way))).wait()
    if ended.code:
        if not ended.refusal:
            return f"not one line: {ended.told()}"
        if "space" not in ended.refusal or str(whole.out) not in ended.refusal:
            return f"the line does not say which file the disk has no space for: {ended.refusal}"
    return whole.lost(whole.run().wait())
