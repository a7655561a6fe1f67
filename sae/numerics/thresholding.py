"""Which numbers of a row are kept; the others become zero."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def above(pre: Float[Tensor, "*batch n"], threshold: Tensor | float) -> Float[Tensor, "*batch n"]:
    """Those that exceed the `threshold`, one for all or one for each place in a row."""
    return torch.where(pre > threshold, pre, torch.zeros_like(pre))


def largest(pre: Float[Tensor, "*batch n"], k: int) -> Float[Tensor, "*batch n"]:
    """The `k` largest of each row; a row that is no longer than that, as it is."""
    if k >= pre.shape[-1]:
        return pre
    kept = pre.topk(k, dim=-1)
    return torch.zeros_like(pre).scatter_(-1, kept.indices, kept.values)
