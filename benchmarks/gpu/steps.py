"""Training steps of single dictionaries at a given L0, against the dense rooflines of the same minutes.

The states are planted, not trained (:mod:`benchmarks.planted`); a learning rate near zero keeps them so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch

from benchmarks import trainers
from benchmarks.clock import seconds as seconds_of
from benchmarks.planted import SELECTING, STILL, bias_for, plant_, settings_of
from benchmarks.roofline import Roofline, tf32
from benchmarks.rounds import time_with_roofline
from benchmarks.trainers import Setting
from benchmarks.trainers.ours import STRIDE, Run
from sae.numerics import memory
from sae.registry import config_class
from sae.training.kernels.backend import kernels_for

HYSTERESIS = 1.5
"""How far above the density at which a member becomes sparse it has to be to become dense again."""


class Planted(Run):
    """Our trainer on a planted state."""

    def __init__(self, kind: str, setting: Setting, precision: str, l0: float) -> None:
        config: Any = config_class("dictionaries", kind)(**settings_of(kind, setting.n_latents, setting.l0))
        still = replace(setting, extra={"lr": STILL, "precision": precision})
        super().__init__([(config, setting.seed)], still, trainers.pool_of(setting))
        if kind not in SELECTING:
            state = self.state.checkpoint()
            self.training.close()
            plant_(state, kind, bias_for(self.batches[0], state, l0 / setting.n_latents))
            self.training = self._train(state)
            self.state = next(self.training)


def step(
    kind: str, precision: str, d_in: int, n_latents: int, batch: int, l0: int, device: str, seconds: float
) -> dict[str, Any]:
    """Samples per second, beside the dense rooflines in bfloat16 and in TF32."""
    setting = Setting(d_in, n_latents, batch, l0, "bfloat16", device)
    before = memory.held_bytes(device)
    trainer = Planted(kind, setting, precision, l0)
    trainer.steps(2 * STRIDE)
    peak = (memory.peak_bytes(device) - before) / 2**20
    figures = {**setting_of(setting), "kind": kind, "precision": precision, "peak_mb": max(0.0, peak)}
    return figures | _beside_rooflines(trainer, setting, seconds)


def peer(name: str, d_in: int, n_latents: int, batch: int, l0: int, device: str, seconds: float) -> dict[str, Any]:
    """The same of another library's trainer, in its own mixed precision, where it is installed."""
    absent = trainers.missing(name)
    if absent is not None:
        return {"name": name, "skipped": f"{absent} is not installed"}
    setting = Setting(d_in, n_latents, batch, l0, "bfloat16", device)
    trainer = trainers.build(name, setting, trainers.pool_of(setting))
    trainer.steps(4 * trainer.stride)
    return {"name": name, **setting_of(setting)} | _beside_rooflines(trainer, setting, seconds)


def setting_of(setting: Setting) -> dict[str, Any]:
    return {"d_in": setting.d_in, "n_latents": setting.n_latents, "batch": setting.batch, "l0_wanted": setting.l0}


def _beside_rooflines(trainer: Any, setting: Setting, seconds: float) -> dict[str, Any]:
    timing = time_with_roofline(trainer, setting, seconds)
    in_tf32 = tf32_samples_per_second(setting, seconds / 10)
    rate = timing["samples_per_s"]
    return {
        **timing,
        "tf32_samples_per_s": in_tf32,
        "of_bfloat16": rate / timing["roofline_samples_per_s"],
        "of_tf32": rate / in_tf32,
    }


def tf32_samples_per_second(setting: Setting, at_least: float) -> float:
    """The dense roofline in TF32, which only a GPU has: float32 elsewhere."""
    roofline = Roofline(setting.d_in, setting.n_latents, setting.batch, "float32", setting.device, at_least=at_least)
    with tf32(True):
        return setting.batch / roofline.seconds()


def paths(d_in: int, n_latents: int, batch: int, l0: int, device: str, seconds: float) -> dict[str, Any]:
    """Milliseconds of an L1 step on either path by density, the density at which both take the same time, and from it
    the constants of the kernels: `sparse_below` and `dense_above`."""
    kernels = type(kernels_for(torch.empty(1, device=device)))
    own = kernels.sparse_below, kernels.dense_above
    by_density: dict[float, dict[str, float]] = {}
    try:
        for density in (l0 / n_latents, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32):
            taken: dict[str, float] = {}
            for path, bound in (("sparse", 2.0), ("dense", 0.0)):
                kernels.sparse_below = kernels.dense_above = bound
                setting = Setting(d_in, n_latents, batch, l0, "float32", device)
                trainer = Planted("relu", setting, "float32", density * n_latents)
                trainer.steps(2 * STRIDE)
                taken[path] = 1000 * _seconds_of_a_step(trainer, device, seconds)
            by_density[density] = taken
    finally:
        kernels.sparse_below, kernels.dense_above = own
    equal = crossing({density: taken["sparse"] / taken["dense"] for density, taken in by_density.items()})
    return {
        "kernels": kernels.__name__,
        "ms": {f"{density:.4f}": taken for density, taken in by_density.items()},
        "equal_at": equal,
        "sparse_below_now": own[0],
        "dense_above_now": own[1],
        "sparse_below": equal / HYSTERESIS**0.5,
        "dense_above": equal * HYSTERESIS**0.5,
    }


def _seconds_of_a_step(trainer: Planted, device: str, at_least: float) -> float:
    n = STRIDE * max(1, round(at_least / max(seconds_of(lambda: trainer.steps(STRIDE), device), 1e-9)))
    return seconds_of(lambda: trainer.steps(n), device) / n


def crossing(ratios: Mapping[float, float]) -> float:
    """The density at which the ratio first reaches 1, on straight lines between the measured ones; the smallest or the
    largest where it never does."""
    points = sorted(ratios.items())
    if points[0][1] >= 1:
        return points[0][0]
    for (low, below), (high, above) in pairwise(points):
        if above >= 1:
            return low + (high - low) * (1 - below) / (above - below)
    return points[-1][0]
