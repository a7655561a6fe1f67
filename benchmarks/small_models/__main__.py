"""Open questions on small language models that are trained here, one study per question.

python -m benchmarks.small_models --text TRAIN.txt --heldout OTHER.txt                every study
python -m benchmarks.small_models solu_twins --text TRAIN.txt --heldout OTHER.txt     only this one
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.lines import Line, emit, note, run
from benchmarks.small_models import Models, studies
from sae.registry import UserError, unknown


def small_models(
    *names: str,
    text: Path,
    heldout: Path,
    out: Path = Path("runs/small-models"),
    training: str = "{}",
    threads: int = 1,
) -> list[Line]:
    """Print a result for every fact: what is measured, the expected value, the measured value.

    Parameters
    ----------
    names
        Names of studies; without any, all.
    text
        The text that models are trained on.
    heldout
        Another text, on which they are measured.
    out
        Folder of the trained models; those in it are used again.
    training
        Settings of training in place of the studies' own, as JSON, for short trials.
    threads
        Threads of the process.
    """
    every = studies()
    for name in names:
        if name not in every:
            raise UserError(unknown(name, every, "study"))
    torch.set_num_threads(threads)
    models = Models(text, heldout, out, json.loads(training))
    lines: list[Line] = []
    for name in names or every:
        note(name)
        about = " ".join((every[name].__doc__ or "").split())
        facts = every[name](models)
        lines += [emit("small_models", {"study": name, "about": about, **asdict(fact)}) for fact in facts]
    return lines


if __name__ == "__main__":
    run(small_models)
