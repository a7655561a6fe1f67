"""One quick line for each trainer, ours and those of the other libraries: that all of them run, not how fast.

python -m benchmarks.peers

`make peers` runs it in the environment that has all libraries. Unlike in the other programs, a library that is missing
is a failure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Annotated, Any

from cyclopts import Parameter

from benchmarks.isolated import ProcessError, call, installed
from benchmarks.lines import Line, emit, failed, note, run
from benchmarks.step import measure
from benchmarks.trainers import LIBRARIES, Schedule, Setting, library_of, pool_of
from sae.registry import UserError, unknown
from sae.scoring import score

TINY = Setting(d_in=16, n_latents=64, batch=64, l0=4, levels=(16, 64))
STEPS = 60
LR = 3e-3


def peers(
    *, only: Annotated[Sequence[str] | None, Parameter(negative=(), consume_multiple=True)] = None, threads: int = 1
) -> list[Line]:
    """Print a line for each trainer that the other programs use: timed steps, whole runs, and whole runs of every
    architecture. Exits with code 1 where a library is missing or a trainer fails.

    Parameters
    ----------
    only
        First words of the trainers' names, such as saelens; without it, all.
    threads
        Threads per process; there is one process for each library.
    """
    lines: list[Line] = []
    for library in LIBRARIES if only is None else only:
        if library not in LIBRARIES:
            raise UserError(unknown(library, LIBRARIES, "library"))
        module = library_of(library)
        if absent := [name for kind in module.KINDS if not installed(name := module.REQUIRES.format(kind=kind))]:
            failed(f"{library}: {absent[0]} is not installed")
            continue
        note(library)
        try:
            found = call("benchmarks.peers:every_trainer", {"library": library}, threads)["lines"]
        except ProcessError as error:
            failed(f"{library}: {error}")
            continue
        lines += [emit("peers", line) for line in found]
    return lines


def every_trainer(library: str) -> dict[str, list[Line]]:
    """The lines of one library, from this process."""
    module = library_of(library)
    timed = [steps(f"{library}-{kind}") for kind in module.KINDS]
    # Not every library's loop can be used for whole runs on given batches.
    whole = [whole_run(library)] if hasattr(module, "fit") else []
    trained = [architecture(library, kind) for kind in getattr(module, "ARCHITECTURES", ())]
    return {"lines": [*timed, *whole, *trained]}


def steps(name: str) -> Line:
    """Timed steps of a trainer, as `benchmarks.step` makes them, from untrained values."""
    # Levels are left empty, as they are there.
    return {"name": name, "of": "steps"} | measure(name, 0.05, asdict(replace(TINY, levels=())))


def whole_run(library: str) -> Line:
    """A whole run with an L1 penalty, as `benchmarks.whole` makes it."""
    tensors = library_of(library).fit(replace(TINY, levels=()), STEPS, LR, 0.05, pool_of(TINY))
    assert {"W_enc", "W_dec", "b_enc", "b_dec"} <= set(tensors), f"{library}: {sorted(tensors)}"
    assert all(bool(t.isfinite().all()) for t in tensors.values()), f"{library}: values that are not finite"
    return {"name": library, "of": "whole run", "steps": STEPS}


def architecture(library: str, kind: str) -> Line:
    """A whole run of an architecture, as `benchmarks.architectures` makes it, with scores on training samples."""
    batches = pool_of(TINY)
    d: Any = library_of(library).fit_dictionary(kind, TINY, Schedule(STEPS, LR), batches)
    scores = score(d, batches[0], metrics=["reconstruction"])
    assert math.isfinite(scores["fvu"]) and math.isfinite(scores["l0"]), f"{library}-{kind}: {scores}"
    return {"name": f"{library}-{kind}", "of": "architecture", "steps": STEPS, "l0": scores["l0"], "fvu": scores["fvu"]}


if __name__ == "__main__":
    run(peers)
