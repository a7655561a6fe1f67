"""A stack of small dictionaries against its batched roofline, with dense steps replayed as a graph or not."""

from __future__ import annotations

from typing import Any

from benchmarks.stack import OURS, measure
from sae.training import engine


def stacked(members: int, replayed: bool, device: str, seconds: float, small: bool) -> dict[str, Any]:
    """Samples per second of a stack of L1 dictionaries, and the share of its roofline in float32."""
    shape = {"d_in": 16, "n_latents": 64, "batch": 64, "l0": 4} if small else {
        "d_in": 64, "n_latents": 256, "batch": 1024, "l0": 16}  # fmt: skip
    before = engine.REPLAYED
    engine.REPLAYED = before if replayed else 0
    try:
        figures = measure(OURS, members, 50 if small else 500, seconds, {**shape, "device": device})
    finally:
        engine.REPLAYED = before
    fraction = figures["samples_per_s"] / figures["roofline_samples_per_s"]
    return {"members": members, "replayed": replayed, **shape, **figures, "fraction": fraction}
