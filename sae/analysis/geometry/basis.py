"""Alignment of directions or activations with the axes: without it, single neurons have no meaning of their own.

Two measures, each of which has its null value if no axis is special:

    kurtosis    of each coordinate over rows, E (x - mu)^4 / sigma^4; 3 if rows are Gaussian, whatever their
                covariance, larger if a few rows have large values on a coordinate (the residual-basis test)
    max_share   of each direction, max_k w_k^2: 1 for an axis, about 2 ln d / d for a random direction

The null distribution is that of the same rows under random rotations, which preserve all angles and lengths but not the
axes: a measure outside the interval of its rotations depends on the basis.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sae.numerics.matching import unit
from sae.numerics.seeds import generator
from sae.registry import UserError
from sae.toys.features.directions import rotation


def kurtosis(x: Float[Tensor, "rows d"]) -> Float[Tensor, " d"]:
    """The kurtosis of each coordinate (not the excess: 3 for a Gaussian); NaN for one that does not vary."""
    apart = x.double() - x.mean(0, dtype=torch.float64)
    variance = apart.square().mean(0)
    fourth = apart.square().square().mean(0)
    return torch.where(variance > 0, fourth / variance.square(), torch.nan).float()


def max_share(rows: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """The share of each row's squared length on its strongest coordinate; NaN for rows of zeros."""
    share = unit(rows).square().amax(1)
    return torch.where(share > 0, share, torch.nan)


@dataclass(frozen=True)
class Alignment:
    """The mean of a measure, and its distribution under random rotations."""

    value: float
    """The mean for the rows as they are."""
    rotated: float
    """The mean over rotations."""
    low: float
    """The 2.5 percentile over rotations."""
    high: float
    """The 97.5 percentile over rotations."""

    @property
    def is_aligned(self) -> bool:
        """Whether the rows are more aligned with the axes than 97.5% of their rotations."""
        return self.value > self.high


def basis_alignment(
    rows: Float[Tensor, "n d"], measure: Callable[[Tensor], Tensor] = max_share, rotations: int = 40, seed: int = 0
) -> Alignment:
    """The mean of a measure over coordinates or rows, with its null distribution.

    Raises `UserError` for a single dimension, which has no rotations.
    """
    if rows.shape[1] < 2:
        raise UserError("rows: a single dimension has no other basis to compare with; give two dimensions or more")
    draw = generator("basis", seed)
    rotated = (rows @ rotation(rows.shape[1], draw).to(rows) for _ in range(rotations))
    null = [float(measure(x).nanmean()) for x in rotated]
    low, high = np.quantile(null, [0.025, 0.975]).tolist()
    return Alignment(float(measure(rows).nanmean()), math.fsum(null) / len(null), low, high)
