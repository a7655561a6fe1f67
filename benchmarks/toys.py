"""What toy networks do, beside what is claimed of them.

python -m benchmarks.toys                  every study
python -m benchmarks.toys demo geometry    some
"""

from __future__ import annotations

from dataclasses import asdict

import torch

from benchmarks.lines import Line, emit, note, run
from benchmarks.studies import studies
from sae.registry import unknown


def toys(*names: str, threads: int = 1) -> list[Line]:
    """Print a line for every fact: the claim, the figure expected, the figure measured.

    Parameters
    ----------
    names
        Studies; all without.
    threads
        Threads of the process.
    """
    known = studies()
    for name in names:
        if name not in known:
            raise ValueError(unknown(name, known, "study"))
    torch.set_num_threads(threads)
    lines: list[Line] = []
    for name in names or known:
        note(name)
        about = " ".join((known[name].__doc__ or "").split())
        lines += [emit("toys", {"study": name, "about": about, **asdict(fact)}) for fact in known[name]()]
    return lines


if __name__ == "__main__":
    run(toys)
