"""Output of ``sae run --profile``: where the time of a run went, as a table and as a trace."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from sae.numerics.atomic_write import write_atomically
from sae.numerics.profiler import Spans
from sae.training.prefetch import SPAN as PREFETCH

TRAIN = "train"
"""The stage whose parts are listed."""
PROFILE_PARTS = ("data", "encode", "decode", "backward", "optimizer", "bookkeeping")
"""Parts of a training step, in the order of the table; other spans inside training follow them."""
STEP = "data"
"""The part that occurs exactly once in every training step, so that its count is the number of steps."""


def recorder(device: str) -> Spans:
    """A recorder of spans for work on `device`."""
    return Spans(torch.cuda.synchronize if device.startswith("cuda") else None)


def print_profile(spans: Spans, file: Path, console: Console) -> None:
    """Prints the table and writes the trace to `file`; prints one line where every step was already done."""
    rows = list(profile_rows(spans))
    if not rows:
        console.print("profile: all steps were already done, nothing to profile", highlight=False)
        return
    table = Table("where time went", box=None, header_style="dim")
    for heading in ("seconds", "share", "ms per step"):
        table.add_column(heading, justify="right")
    for name, seconds, share, per_step in rows:
        percent = "" if share is None else f"{share:.1%}"
        table.add_row(name, f"{seconds:.2f}", percent, "" if per_step is None else f"{1e3 * per_step:.3f}")
    console.print(table)
    write_atomically(file, json.dumps({"traceEvents": spans.trace_events(), "displayTimeUnit": "ms"}).encode())
    console.print(f"trace: {file} (open it at https://ui.perfetto.dev)", markup=False, highlight=False, soft_wrap=True)


def profile_rows(spans: Spans) -> Iterator[tuple[str, float, float | None, float | None]]:
    """Rows of the table: name, seconds, share of the time of all stages, seconds per training step.

    The stages sum to the whole, and the parts of training (including `other`) to training. Prefetching in threads
    is the last row and has no share: it runs in parallel, and the time spent waiting for it is in ``data``.
    """
    totals = spans.by_path()
    stages = {path[0]: total for path, total in totals.items() if len(path) == 1 and path[0] != PREFETCH}
    whole = sum(total.seconds for total in stages.values())
    inside = {path[1]: total for path, total in totals.items() if len(path) == 2 and path[0] == TRAIN}
    steps = inside[STEP].count if STEP in inside else 0
    for stage, total in stages.items():
        is_train = stage == TRAIN and steps > 0
        yield stage, total.seconds, total.seconds / whole, total.seconds / steps if is_train else None
        if stage == TRAIN:
            names = [name for name in PROFILE_PARTS if name in inside] + [
                name for name in inside if name not in PROFILE_PARTS
            ]
            parts = [(name, inside[name].seconds) for name in names] + [("other", total.self_seconds)]
            for name, seconds in parts:
                of_steps = steps > 0 and name in (*PROFILE_PARTS, "other")
                yield f"  {name}", seconds, seconds / whole, seconds / steps if of_steps else None
    if (PREFETCH,) in totals:
        seconds = totals[(PREFETCH,)].seconds
        yield f"{PREFETCH}, in parallel with training", seconds, None, seconds / steps if steps else None
