"""Activations of random-weight models: harvested against a bare hook, and streamed into training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import harvest
from benchmarks.stream import measure


def harvested(model: str, attention: str, device: str, seconds: float, small: bool) -> dict[str, Any]:
    """Tokens per second of the harvest and of a bare hook, and the ratio of their times."""
    rows, context, batches = (4, 32, 2) if small else (32, 512, 4)
    figures = harvest.measure(
        model=model, text=None, layer=None, rows=rows, context=context, batches=batches, device=device,
        seconds=seconds, attention=attention,
    )  # fmt: skip
    return {"model": model, "attention": attention, "rows": rows, "context": context, **figures}


def streamed(device: str, small: bool, folder: str) -> dict[str, Any]:
    """Rows per second of training while the model runs, of the model alone and of training from stored activations; the
    share of the time that training waits for the model; the most memory."""
    from sae.numerics import memory

    size: dict[str, Any] = {"model": "random:gpt2-tiny", "hook": "blocks.1.hook_resid_post", "context": 32,
                            "n_tokens": 8_000, "n_heldout_tokens": 1_000, "window_tokens": 2_048}  # fmt: skip
    if not small:
        size = {"model": "random:gpt2-small", "hook": "blocks.8.hook_resid_pre", "context": 512,
                "n_tokens": 4_000_000, "n_heldout_tokens": 50_000, "window_tokens": 1_048_576}  # fmt: skip
    source = {"kind": "transformer", "text": "random:words", "store_dtype": "bfloat16", "exhausted": "repeat", **size}
    n_latents, batch = (64, 128) if small else (24_576, 8192)
    place = str(Path(folder) / "stream")
    before = memory.held_bytes(device)
    rates = measure(source, n_latents, batch, device, 1, place)
    peak = (memory.peak_bytes(device) - before) / 2**30
    return {"source": json.dumps(size), "n_latents": n_latents, "batch": batch, **rates, "peak_gb": max(0.0, peak)}
