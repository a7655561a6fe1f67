"""What ``sae run --profile`` shows: where the time of a run went, as a table and as a trace."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from sae.files.native import write_whole
from sae.numerics.profiler import Spans
from sae.training.prefetch import SPAN as BESIDE

TRAIN = "train"
PROFILE_PARTS = ("data", "encode", "decode", "backward", "optimizer", "bookkeeping")
"""What a training step is made of; other spans inside training are shown after them."""
STEP = "data"
"""The part that every training step has exactly once."""


def recorder(device: str) -> Spans:
    """A recorder for work on that device."""
    return Spans(torch.cuda.synchronize if device.startswith("cuda") else None)


def print_profile(spans: Spans, file: Path, console: Console) -> None:
    """Prints the table and writes the trace to `file`; one line where no step was left to do."""
    rows = list(profile_rows(spans))
    if not rows:
        console.print("profile: every step was done before, so there was nothing to profile", highlight=False)
        return
    table = Table("where time went", box=None, header_style="dim")
    for heading in ("seconds", "share", "ms per step"):
        table.add_column(heading, justify="right")
    for name, seconds, share, per_step in rows:
        told_share = "" if share is None else f"{share:.1%}"
        table.add_row(name, f"{seconds:.2f}", told_share, "" if per_step is None else f"{1e3 * per_step:.3f}")
    console.print(table)
    write_whole(file, json.dumps({"traceEvents": spans.trace_events(), "displayTimeUnit": "ms"}).encode())
    console.print(f"trace: {file} (open it at https://ui.perfetto.dev)", markup=False, highlight=False, soft_wrap=True)


def profile_rows(spans: Spans) -> Iterator[tuple[str, float, float | None, float | None]]:
    """The rows of the table: a name, seconds, the share of all stages' time, seconds for each training step.

    The stages sum to the whole, and the parts of training, `other` among them, to training. What threads did
    beside the steps stands below without a share, since nothing waited for it but the span ``data``.
    """
    totals = spans.by_path()
    stages = {path[0]: total for path, total in totals.items() if len(path) == 1 and path[0] != BESIDE}
    whole = sum(total.seconds for total in stages.values())
    inside = {path[1]: total for path, total in totals.items() if len(path) == 2 and path[0] == TRAIN}
    steps = inside[STEP].count if STEP in inside else 0
    for stage, total in stages.items():
        is_train = stage == TRAIN and steps > 0
        yield stage, total.seconds, total.seconds / whole, total.seconds / steps if is_train else None
        if stage == TRAIN:
            found = [name for name in PROFILE_PARTS if name in inside] + [
                name for name in inside if name not in PROFILE_PARTS
            ]
            parts = [(name, inside[name].seconds) for name in found] + [("other", total.self_seconds)]
            for name, seconds in parts:
                of_steps = steps > 0 and name in (*PROFILE_PARTS, "other")
                yield f"  {name}", seconds, seconds / whole, seconds / steps if of_steps else None
    if (BESIDE,) in totals:
        seconds = totals[(BESIDE,)].seconds
        yield f"{BESIDE}, beside the steps", seconds, None, seconds / steps if steps else None
