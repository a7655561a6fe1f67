"""Runs the attacks and prints, for each, trials, survivors and every failure with what reproduces it.

    python -m benchmarks.attack                              # all, in less than an hour
    python -m benchmarks.attack --quick                      # in a minute or two
    python -m benchmarks.attack flips --seed 3 --first 17 --trials 1   # one trial again

A trial survives where the results are those of an undisturbed run, byte for byte, or the command refuses in one line
that names the file. The exit code is 1 where a trial did not survive.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, cast

from benchmarks.attack.children import command, prepare_to_fork
from benchmarks.attack.trials import Attack

ATTACKS = ("kills", "random_kills", "flips", "full_disk", "configs", "hostile_files", "races")


def attack_all(
    *attacks: str,
    trials: int | None = None,
    seed: int = 0,
    first: int = 0,
    quick: bool = False,
    folder: Path | None = None,
) -> None:
    """Attack runs of the pipeline; all attacks where none is named.

    Parameters
    ----------
    attacks
        kills, random_kills, flips, full_disk, configs, hostile_files, races.
    trials
        Trials of each attack, in place of its own number.
    seed
        Determines every trial.
    first
        The number of the first trial.
    quick
        Few trials of each attack.
    folder
        Where runs are made; a folder that is removed at the end by default.
    """
    from benchmarks.lines import note
    from sae.registry import UserError

    unknown = [name for name in attacks if name not in ATTACKS]
    if unknown:
        raise UserError(f"attack: {unknown[0]!r} is none of {', '.join(ATTACKS)}")
    rows: list[tuple[str, int, int, float]] = []
    with tempfile.TemporaryDirectory(dir=folder) as place:
        warm_up(Path(place) / "first")
        for name in attacks or ATTACKS:
            module = cast(Attack, importlib.import_module(f"benchmarks.attack.{name}"))
            n = trials if trials is not None else module.QUICK if quick else module.TRIALS
            began, survived, done = time.monotonic(), 0, 0
            for trial in module.attack(Path(place) / name, range(first, first + n), seed):
                done += 1
                survived += not trial.failure
                if trial.failure:
                    note(f"{name} --seed {seed} --first {trial.number} --trials 1: {trial.what}: {trial.failure}")
            rows.append((name, done, survived, time.monotonic() - began))
            note(f"{name}: {survived} of {done} trials survived")
    print(table(rows))
    if any(survived < done for _, done, survived, _ in rows):
        sys.exit(1)


def table(rows: Sequence[tuple[str, int, int, float]]) -> str:
    """The results as a Markdown table: name, trials, survivors and seconds of each attack."""
    lines = ["| attack | trials | survivors | failures | seconds |", "|---|---|---|---|---|"]
    lines += [f"| {n} | {done} | {survived} | {done - survived} | {s:.0f} |" for n, done, survived, s in rows]
    return "\n".join(lines)


def _no_pictures(*_: object) -> list[Any]:
    return []


def warm_up(folder: Path) -> None:
    """Does every run once in this process, so that children start with all that is imported and compiled.

    Leaves figures out of reports, as they take most of the time of so small a run.
    """
    import torch

    from benchmarks.attack.runs import STREAM, TOY, write_inputs
    from pipelines.stages import report

    torch.set_num_threads(1)
    report.pictures = _no_pictures
    for name, text in (("toy", TOY), ("stream", STREAM)):
        write_inputs(folder / name, text)
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            command("run", folder / name / "attacked.toml", "--out", folder / name / "out")()


if __name__ == "__main__":
    if not hasattr(os, "fork"):
        sys.exit("attack: needs a system that can fork processes, such as Linux")
    prepare_to_fork()
    from benchmarks.lines import run

    run(attack_all)
