"""What ``train.precision = "auto"`` took, by shape, in ``OUT/.precision.json``.

Steps are named by what was taken, so a run that goes on, `sae plan` and `sae status` must take the same without timing
again. The record therefore stays as it is on another device or machine: remove the file to have the choice made anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

from pipelines.steps.store import Store
from sae.numerics.atomic_write import write_atomically
from sae.training.precision import EncoderTiming

PRECISIONS = ".precision.json"
"""File in the folder of all steps."""
_LOCK_SECONDS = 60.0
"""How long a run waits for another that measures, which takes seconds."""


def recorded_timings(root: Path) -> dict[str, EncoderTiming]:
    """The record in a folder of steps, by the name of the shape; empty where there is none or it is damaged."""
    try:
        content: Any = json.loads((root / PRECISIONS).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    entries = cast(dict[str, Any], content) if isinstance(content, dict) else {}
    return {name: timing for name, entry in entries.items() if (timing := _timing(entry)) is not None}


def timings_of(
    root: Path, names: Collection[str], measure: Callable[[str], EncoderTiming]
) -> Mapping[str, EncoderTiming]:
    """The timing of each shape: that of the record, or else `measure` of its name, which is then recorded.

    In a folder that cannot be written to, what is missing is measured each time.
    """
    known = recorded_timings(root)
    if all(name in known for name in names):
        return known
    with _claimed(root):
        known = recorded_timings(root)  # another run may have measured meanwhile
        known |= {name: measure(name) for name in names if name not in known}
        lines = {name: vars(timing) for name, timing in sorted(known.items())}
        with suppress(OSError):
            write_atomically(root / PRECISIONS, (json.dumps(lines, indent=1) + "\n").encode())
    return known


@contextmanager
def _claimed(root: Path) -> Generator[None]:
    """Holds the lock of the record, where the folder can be written to."""
    try:
        (root / ".locks").mkdir(parents=True, exist_ok=True)
    except OSError:
        yield
        return
    with Store(root).claim("precision", _LOCK_SECONDS):
        yield


def _timing(entry: Any) -> EncoderTiming | None:
    """An entry of the record; None where it is damaged."""
    types = {"d_in": int, "n_latents": int, "batch": int, "device": str, "threads": int, "gain": float}
    if not isinstance(entry, dict) or {n: type(v) for n, v in cast(dict[str, Any], entry).items()} != types:
        return None
    return EncoderTiming(**cast(dict[str, Any], entry))
