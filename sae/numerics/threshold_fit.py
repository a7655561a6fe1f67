"""Fits a threshold and a line to sparse codes: when a latent fires, and how strongly."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

LATENTS_AT_ONCE = 64


class Jump(NamedTuple):
    """An activation function: ``z_j = slope_j v_j + offset_j`` where that is above ``threshold_j``, else 0."""

    slope: Float[Tensor, " n_latents"]
    """Factor of each latent."""
    offset: Float[Tensor, " n_latents"]
    """Constant of each latent."""
    threshold: Float[Tensor, " n_latents"]
    """Threshold of each latent, on the same scale as the codes."""


def fit_jump(v: Float[Tensor, "rows n_latents"], codes: Float[Tensor, "rows n_latents"]) -> Jump:
    """The jump that maps each latent's `v` best to its `codes`.

    A latent fires above the threshold with the highest F1 against ``codes > 0``; its magnitude is the least-squares
    line through the codes where both fire. A latent that is never active in `codes` never fires.
    """
    pieces = zip(v.split(LATENTS_AT_ONCE, 1), codes.split(LATENTS_AT_ONCE, 1), strict=True)
    threshold = torch.cat([best_code_threshold(v_piece, codes_piece) for v_piece, codes_piece in pieces])
    both = (v > threshold) & (codes > 0)
    slope, offset = _line(v, codes, both)
    # The threshold on the scale of the codes, where negative values never fire.
    raised = (slope * threshold + offset).clamp(min=0, max=torch.finfo(v.dtype).max)
    return Jump(slope, offset, torch.where(both.any(0), raised, torch.full_like(raised, torch.finfo(v.dtype).max)))


def best_code_threshold(v: Float[Tensor, "rows n"], codes: Float[Tensor, "rows n"]) -> Float[Tensor, " n"]:
    """The t of each column for which ``v > t`` has the highest F1 against ``codes > 0``, the highest t if several do.

        F1 = 2 |A & P| / (|A| + |P|),    A = {v > t},    P = {codes > 0}

    t is the midpoint of two neighbouring values of `v`. Equal values are not treated as tied: if t falls between them,
    none of them is above it. :func:`~sae.numerics.binary_probes.best_threshold` instead gives one of the scores of a
    single column, for ``scores >= t``, and keeps equal scores together.
    """
    ordered = v.sort(dim=0, descending=True)
    active = codes > 0
    hits = active.gather(0, ordered.indices).cumsum(0)
    fires = torch.arange(1, len(v) + 1, device=v.device)[:, None]
    f1 = 2 * hits / (fires + active.sum(0))
    last = f1.argmax(0, keepdim=True)
    below = ordered.values.gather(0, (last + 1).clamp_max(len(v) - 1))
    return (ordered.values.gather(0, last) + below)[0] / 2


def _line(v: Tensor, codes: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
    """Slope and offset of the least-squares line over the rows in `where`; through the origin if it does not rise."""
    weight = where.to(v.dtype)
    n = weight.sum(0).clamp_min(1)
    mean_v, mean_z = (weight * v).sum(0) / n, (weight * codes).sum(0) / n
    spread = (weight * (v - mean_v).square()).sum(0)
    slope = (weight * (v - mean_v) * (codes - mean_z)).sum(0) / spread.clamp_min(1e-12)
    flat = (slope <= 0) | (spread <= 1e-12)
    ratio = mean_z / torch.where(mean_v > 0, mean_v, torch.ones_like(mean_v))
    slope = torch.where(flat, torch.where(mean_v > 0, ratio, torch.zeros_like(ratio)), slope)
    return slope, mean_z - slope * mean_v
