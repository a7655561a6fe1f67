"""Reproduces published claims about toy networks, one study per claim.

python -m benchmarks.toys                  every study
python -m benchmarks.toys demo geometry    only these
"""

from __future__ import annotations

import torch

from benchmarks.lines import Line, run
from benchmarks.studies import printed, studies


def toys(*names: str, threads: int = 1) -> list[Line]:
    """Print a result for every fact: what is measured, the expected value, the measured value.

    Parameters
    ----------
    names
        Names of studies; without any, all.
    threads
        Threads of the process.
    """
    torch.set_num_threads(threads)
    return printed("toys", names, studies())


if __name__ == "__main__":
    run(toys)
