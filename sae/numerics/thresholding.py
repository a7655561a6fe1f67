"""Activation functions that keep some of the values of each row and set the others to zero."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def above(pre: Float[Tensor, "*batch n"], threshold: Tensor | float) -> Float[Tensor, "*batch n"]:
    """Keeps the values above `threshold`, which is one number or one per column."""
    return torch.where(pre > threshold, pre, torch.zeros_like(pre))


def largest(pre: Float[Tensor, "*batch n"], k: int) -> Float[Tensor, "*batch n"]:
    """Keeps the `k` largest values of each row, all if there are no more than `k`."""
    if k >= pre.shape[-1]:
        return pre
    kept = pre.topk(k, dim=-1)
    return torch.zeros_like(pre).scatter_(-1, kept.indices, kept.values)
