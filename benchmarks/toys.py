"""Reproduces published claims about toy networks, one study per claim.

python -m benchmarks.toys                  every study
python -m benchmarks.toys demo geometry    only these
"""

from __future__ import annotations

from dataclasses import asdict

import torch

from benchmarks.lines import Line, emit, note, run
from benchmarks.studies import studies
from sae.registry import UserError, unknown


def toys(*names: str, threads: int = 1) -> list[Line]:
    """Print a result for every fact: what is measured, the expected value, the measured value.

    Parameters
    ----------
    names
        Names of studies; without any, all.
    threads
        Threads of the process.
    """
    every = studies()
    for name in names:
        if name not in every:
            raise UserError(unknown(name, every, "study"))
    torch.set_num_threads(threads)
    lines: list[Line] = []
    for name in names or every:
        note(name)
        about = " ".join((every[name].__doc__ or "").split())
        lines += [emit("toys", {"study": name, "about": about, **asdict(fact)}) for fact in every[name]()]
    return lines


if __name__ == "__main__":
    run(toys)
