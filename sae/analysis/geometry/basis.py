"""Whether directions or activations lie along the axes: only then do neurons mean something by themselves.

Two measures, each of which is at its null where no axis is special:

    kurtosis    of each coordinate over rows, E (x - mu)^4 / sigma^4; 3 where rows are Gaussian, whatever their
                covariance, above where a few rows use a coordinate much (the residual-basis test)
    max_share   of each direction, max_k w_k^2: 1 for an axis, about 2 ln d / d for one drawn at random

The null is of the same rows under random rotations, which keep every angle and length and lose the axes: a measure that
is outside the interval of its rotations belongs to the basis.
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
    """A measure's mean, and that of the rows under random rotations: mean, and the 2.5 and 97.5 percentiles."""

    value: float
    rotated: float
    low: float
    high: float

    @property
    def is_aligned(self) -> bool:
        """Whether the rows lie along the axes more than almost any rotation of them does."""
        return self.value > self.high


def basis_alignment(
    rows: Float[Tensor, "n d"], measure: Callable[[Tensor], Tensor] = max_share, rotations: int = 40, seed: int = 0
) -> Alignment:
    """The mean of a measure over coordinates or rows, beside its null.

    Raises ``ValueError`` for a single dimension, which has no rotations.
    """
    if rows.shape[1] < 2:
        raise UserError("rows: in a single dimension there is no other basis to compare with")
    draw = generator("basis", seed)
    turned = (rows @ rotation(rows.shape[1], draw).to(rows) for _ in range(rotations))
    null = [float(measure(t).nanmean()) for t in turned]
    low, high = np.quantile(null, [0.025, 0.975]).tolist()
    return Alignment(float(measure(rows).nanmean()), math.fsum(null) / len(null), low, high)
