"""How fast toy sources draw batches and bring them to the device, against what a training step takes."""

from __future__ import annotations

from itertools import count
from typing import Any

from benchmarks.clock import mean_seconds
from benchmarks.gpu.steps import tf32_samples_per_second
from benchmarks.trainers import Setting


def drawn(name: str, device: str, small: bool) -> dict[str, Any]:
    """Rows per second of the source, on the device, and of the dense roofline in TF32 of a dictionary for it."""
    source, n_latents = _source(name, small)
    batch, at_least = (128, 0.1) if small else (8192, 3.0)
    step = count()
    taken = mean_seconds(lambda: source.batch(next(step), batch).acts.to(device), device, at_least)
    needed = tf32_samples_per_second(Setting(source.d_in, n_latents, batch, 32, device=device), at_least / 10)
    return {
        "d_in": source.d_in,
        "n_latents": n_latents,
        "batch": batch,
        "rows_per_s": batch / taken,
        "roofline_samples_per_s": needed,
        "fraction": batch / taken / needed,
    }


def _source(name: str, small: bool) -> tuple[Any, int]:
    from pathlib import Path

    from pipelines.config.config import read_config
    from pipelines.config.shipped import find_config
    from sae.registry import config_class

    if name == "correlated":
        features, d_in, n_latents = (64, 32, 128) if small else (512, 256, 2048)
        cls: Any = config_class("sources", "correlated")
        return cls(n_features=features, d_in=d_in, n_active=5.0).build(), n_latents
    [config, *_] = read_config(find_config(Path("synthsae-16k"))).sources
    if small:
        fields = {"n_features": 340, "d_in": 32, "activity": {**config.activity.model_dump(), "roots": 4}}
        config = type(config)(**{**config.model_dump(), **fields, "directions": {"kind": "random"}})
    return config.build(), 128 if small else 4096
