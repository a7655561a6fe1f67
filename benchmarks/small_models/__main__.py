"""Open questions on small language models that are trained here, one study per question.

python -m benchmarks.small_models --text TRAIN.txt --heldout OTHER.txt                every study
python -m benchmarks.small_models solu_twins --text TRAIN.txt --heldout OTHER.txt     only this one
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from benchmarks.lines import Line, run
from benchmarks.small_models import Models, studies
from benchmarks.studies import printed


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
    torch.set_num_threads(threads)
    return printed("small_models", names, studies(), Models(text, heldout, out, json.loads(training)))


if __name__ == "__main__":
    run(small_models)
