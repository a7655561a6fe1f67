"""Measures everything that a GPU is to show, in order of worth, within a given time.

python -m benchmarks.gpu --minutes 9 --out runs/gpu
python -m benchmarks.gpu --small
"""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from benchmarks.gpu.session import is_skipped, measure_all
from benchmarks.gpu.units import PARTS, chosen, units
from benchmarks.lines import Line, emit, failed, note, run
from sae.fitting import default_device
from sae.registry import UserError


def gpu(
    *,
    minutes: float = 9.0,
    out: Path | None = None,
    only: Annotated[list[str] | None, Parameter(name="--only", negative=())] = None,
    small: Annotated[bool, Parameter(negative=())] = False,
    device: str | None = None,
) -> list[Line]:
    """Print a line for every measurement, and keep it in OUT/gpu.jsonl.

    A later call with the same folder measures what is missing, and what failed or was skipped once more. A measurement
    that fails is a line with the error, and the next one is done; the exit code is then 1. Those that break the device
    or take three times as long as expected end with the process that they ran in.

    Parameters
    ----------
    minutes
        Time for all of it; what does not fit is left for another call.
    out
        The folder of the results and of what later calls continue; runs/gpu, and with --small a temporary one.
    only
        A part: device, cases, demo, steps, stacks, models, sources, suite; may be given several times.
    small
        Rehearse every part at tiny sizes, on a CPU where there is no GPU.
    device
        The device; a GPU by default.
    """
    device = device or default_device()
    if device == "cpu" and not small:
        raise UserError("there is no GPU here; --small rehearses on a CPU")
    with tempfile.TemporaryDirectory() as temporary:
        folder = (out or Path(temporary if small else "runs/gpu")).absolute()
        every = chosen(units(device, small, str(folder)), only or [])
        threads = 1 if small else None  # tiny sizes are faster so
        lines = measure_all(every, 60 * minutes, folder / "gpu.jsonl", lambda line: emit("gpu", line, device), threads)
    count = Counter((line["part"], _outcome(line)) for line in lines)
    for part in PARTS:
        outcomes = [f"{n} {what}" for (its, what), n in sorted(count.items()) if its == part]
        if outcomes:
            note(f"{part}: {', '.join(outcomes)}")
    for line in lines:
        if not line["ok"]:
            failed(f"{line['part']}: {line['unit']}: {line.get('error', 'beyond its tolerance')}")
    return lines


def _outcome(line: Line) -> str:
    if not line["ok"]:
        return "failed"
    return "skipped" if is_skipped(line) else "measured"


if __name__ == "__main__":
    run(gpu)
