"""Kills a run just before one of the changes that it makes to files; trials are spread evenly over all of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.attack.events import at_event, die, log_to
from benchmarks.attack.runs import Whole, stream, toy
from benchmarks.attack.trials import Trial, dice

TRIALS, QUICK = 200, 10


def attack(folder: Path, numbers: range, seed: int) -> Iterator[Trial]:
    """Three of four trials are on toy data, one on a stream of a transformer; the same command then has to finish."""
    targets = [(whole, changes(whole)) for whole in (toy(folder / "toy"), stream(folder / "stream"))]
    for number in numbers:
        whole, moments = targets[number % 4 == 3]
        # A low-discrepancy sequence: any number of trials is spread over the whole run.
        at = int((number * 0.6180339887 + dice("kills", seed, 0).random()) % 1 * len(moments))
        whole.start_anew()
        whole.run(before=at_event(at, whole.out, die)).wait()
        yield Trial(
            number, f"{whole.folder.name}: killed before change {at}, {moments[at]}", whole.lost(whole.run().wait())
        )


def changes(whole: Whole) -> list[str]:
    """Every change that an undisturbed run makes to files."""
    whole.start_anew()
    log = whole.folder / "changes.txt"
    whole.run(before=log_to(log, whole.out)).wait()
    return log.read_text().replace(f"{whole.out}/", "").splitlines()
