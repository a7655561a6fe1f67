"""Training on the device against training on a CPU: the same configs, seeds and batches end in the same weights."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.pool import Pool, planted
from sae.registry import config_class
from sae.training.config import TrainConfig
from sae.training.loop import train

SPARSITY: dict[str, dict[str, Any]] = {
    "relu": {"l1": 1.0},
    "gated": {"l1": 1.0},
    "jumprelu": {"l0": 8.0},
    "topk": {"k": 8},
    "batchtopk": {"k": 8},
    "matryoshka": {"k": 8, "levels": (128, 512)},
    "matching_pursuit": {"k": 8},
}
D_IN, N_LATENTS, BATCH, STEPS = 64, 512, 256, 60
TOLERANCE = 1e-2
"""Largest relative difference of a tensor that counts as rounding: sums in another order, after which a code at its
threshold is active or not."""
LOSS_TOLERANCE = 1e-3
"""The same of the loss."""


def agreement(kind: str, device: str) -> dict[str, Any]:
    """The largest relative distance of a tensor after 60 steps of two members, ``||W - W_cpu|| / ||W_cpu||``, and that
    of the loss, in float32 and with the screen; `ok` is whether all are within the tolerances."""
    expected, loss = _weights(kind, "cpu", "float32")
    figures: dict[str, Any] = {"loss": loss}
    ok = True
    for precision in ("float32", "screen"):
        tensors, its_loss = _weights(kind, device, precision)
        distance = max(float((tensors[n] - t).norm() / t.norm().clamp_min(1e-12)) for n, t in expected.items())
        off = abs(its_loss / loss - 1)
        figures |= {f"distance_{precision}": distance, f"loss_{precision}": off}
        ok = ok and distance < TOLERANCE and off < LOSS_TOLERANCE
    return {**figures, "ok": ok}


def _weights(kind: str, device: str, precision: Any) -> tuple[dict[str, torch.Tensor], float]:
    batches = planted(D_IN, N_LATENTS // 4, BATCH, 4, device)
    config = config_class("dictionaries", kind)(n_latents=N_LATENTS, **SPARSITY[kind])
    fixed = TrainConfig(steps=STEPS, batch_size=BATCH, log_every=STEPS, n_scale=BATCH, precision=precision)
    *_, state = train([(config, 0), (config, 1)], Pool(batches), fixed, device)  # pyright: ignore[reportArgumentType]
    loss = sum(float(record["loss"]) for record in state.records()) / 2
    return {name: t.detach().cpu().double() for name, t in state.stack.tensors().items()}, loss
