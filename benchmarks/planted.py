"""States that are planted, not trained: weights at random, and one number in every encoder bias, or one threshold, so
that as many latents are active as wanted.

What a step computes is that of a trained dictionary whose latents fire evenly.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

SAMPLED = 1 << 20
"""Products from which the bias is measured."""
STILL = 1e-12
"""A learning rate so low that the state stays as it was planted."""
SELECTING = ("topk", "batchtopk", "matryoshka")
"""Kinds that keep a number of codes."""


def settings_of(kind: str, n_latents: int, l0: int) -> dict[str, Any]:
    """The settings of a dictionary, of which `l0` latents are active: by `k`, or once its state is planted."""
    sparsity = {"k": l0} if kind in SELECTING else {"l1": 1.0} if kind == "relu" else {"l0": float(l0)}
    return {"n_latents": n_latents, **sparsity}


def bias_for(x: Tensor, state: dict[str, Tensor], share: float) -> float:
    """The bias at which this share of the pre-activations of `x` is positive, for the first member of a checkpoint."""
    scale = 1 / state["units.scale"].item() if "units.scale" in state else 1.0
    W = state["parameter.W_enc"][0]
    rows = max(1, min(len(x), SAMPLED // len(W)))
    centred = scale * x[:rows] - state["parameter.b_dec"][0]
    return -float((centred @ W.mT).flatten().float().cpu().quantile(1 - share))


def plant_(state: dict[str, Tensor], kind: str, bias: float) -> None:
    """Sets the encoder biases of a checkpoint, above the thresholds of latents where there are any. Where a number of
    codes is kept, sets the threshold of a batch instead, which only a selection over the batch has."""
    if kind in SELECTING:
        state["parameter.bar"].fill_(-bias)
    else:
        state["parameter.b_enc"].fill_(bias).add_(state.get("parameter.threshold", 0.0))
