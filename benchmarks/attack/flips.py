"""Flips one random bit of one file of a finished or unfinished run, and runs it again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.attack.events import at_event, die
from benchmarks.attack.kills import changes
from benchmarks.attack.runs import Whole, stream, toy
from benchmarks.attack.trials import Trial, dice

TRIALS, QUICK = 400, 20
UNFINISHED = 8
"""Unfinished runs of each config that are damaged, killed at different moments."""


def attack(folder: Path, numbers: range, seed: int) -> Iterator[Trial]:
    """The next run has to end with the right bytes, or to name the file; then what it says has to help."""
    templates = [
        (whole, template)
        for whole in (toy(folder / "toy"), stream(folder / "stream"))
        for template in _templates(whole)
    ]
    for number in numbers:
        chance = dice("flips", seed, number)
        whole, template = chance.choice(templates)
        whole.start_anew(template)
        file = chance.choice([f for f in sorted(whole.out.rglob("*")) if _has_bits(f)])
        bit = chance.randrange(8 * file.stat().st_size)
        with file.open("rb+") as f:
            f.seek(bit // 8)
            byte = f.read(1)[0]
            f.seek(bit // 8)
            f.write(bytes([byte ^ 1 << bit % 8]))
        what = f"{whole.folder.name}, {template.name}: bit {bit % 8} at {bit // 8} of {file.relative_to(whole.out)}"
        yield Trial(number, what, _rerun(whole, file))


def _templates(whole: Whole) -> list[Path]:
    """Copies of the finished run and of runs that were killed."""
    n = len(changes(whole))
    finished = whole.out.rename(whole.folder / "finished")
    killed: list[Path] = []
    for i in range(UNFINISHED):
        whole.run(before=at_event((i + 1) * n // (UNFINISHED + 1), whole.out, die)).wait()
        killed.append(whole.out.rename(whole.folder / f"killed-{i}"))
    return [finished, finished, *killed]


def _has_bits(file: Path) -> bool:
    is_link = any(path.is_symlink() for path in (file, *file.parents))
    return not is_link and file.is_file() and file.stat().st_size > 0


def _rerun(whole: Whole, file: Path) -> str:
    """Runs again; a damaged manifest may also be named by its folder."""
    is_manifest = file.name == "manifest.json"
    also = [f"{file.parent}: its manifest", f"{file.parent}: `"] if is_manifest else []
    return whole.lost_unless_refused(whole.run().wait(), [str(file), *also])
