"""The geometry of features: dimensions per feature, polytopes, interference, and neurons shared by features.

Measures of rows W_i (true directions, a toy model's columns, or decoder rows) with unit rows w_i, after Elhage et al.
2022, 'Toy Models of Superposition', unless noted. Rows of length zero are not features: they have no dimensionality, no
weight on any neuron, and interfere with no feature. Interference and dimensionality do not depend on the basis;
`effective_neurons` and `features_per_neuron` do, and are meaningful only in a privileged basis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae.numerics.matching import unit

GEOMETRY_ROWS_AT_ONCE = 1024
"""Rows of a matrix of cosines that are computed at once."""

PLATEAUS = {
    "dedicated": 1.0,
    "tetrahedron": 3 / 4,
    "triangle": 2 / 3,
    "digon": 1 / 2,
    "pentagon": 2 / 5,
    "square antiprism": 3 / 8,
    "none": 0.0,
}
"""Dimensions per feature of the polytopes in which equally important features settle."""


def gram(rows: Float[Tensor, "n d"]) -> Float[Tensor, "n n"]:
    """``W W^T``: norms squared on the diagonal, interference off it."""
    return rows @ rows.T


def interference(rows: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """``sum_{j != i} (w_i . W_j)^2``: how much the other features write along each; 0 for one orthogonal to all."""
    between = (unit(rows) @ rows.T).square()
    return between.fill_diagonal_(0).sum(1)


def dimensionality(rows: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """``D_i = ||W_i||^2 / sum_j (w_i . W_j)^2``, the fraction of a dimension that a feature has; 0 for rows of zeros.

    It equals the feature's capacity, ``||W_i||^4 / sum_j (W_i . W_j)^2`` (Scherlis et al. 2022). The sum over features
    is at most the rank, and equal to it if every dimension is used.
    """
    square = rows.square().sum(1)
    total = (unit(rows) @ rows.T).square().sum(1)
    return square / torch.where(total > 0, total, torch.ones_like(total))


def dimensions_per_feature(rows: Float[Tensor, "n d"]) -> float:
    """``D* = d / ||W||_F^2``: dimensions divided by the number of features, a feature of norm one counting as one."""
    return rows.shape[1] / float(rows.square().sum())


def nearest_cosine(rows: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """``max_{j != i} |w_i . w_j|``: the |cosine| of each row with the nearest other; the largest is the coherence."""
    directions = unit(rows)
    nearest = torch.zeros(len(rows), device=rows.device, dtype=rows.dtype)
    for start in range(0, len(rows), GEOMETRY_ROWS_AT_ONCE):
        cosine = (directions[start : start + GEOMETRY_ROWS_AT_ONCE] @ directions.T).abs()
        i = torch.arange(len(cosine), device=cosine.device)
        cosine[i, start + i] = 0
        nearest[start : start + GEOMETRY_ROWS_AT_ONCE] = cosine.amax(1)
    return nearest


def expected_nearest(n: int, d: int) -> float:
    """``sqrt(2 ln n / d)``, an upper approximation of the mean `nearest_cosine` of n random unit vectors in d
    dimensions, for ``ln n`` well below d. Hence exp(d eps^2 / 2) vectors have |cosines| below eps: exponentially many.
    The coherence, the largest over all n^2 pairs, is near ``sqrt(4 ln n / d)``."""
    return math.sqrt(2 * math.log(n) / d)


def plateau(d: float, tolerance: float = 0.02) -> str | None:
    """The polytope whose plateau is nearest to a dimensionality; None if none is within `tolerance`."""
    name = min(PLATEAUS, key=lambda name: abs(PLATEAUS[name] - d))
    return name if abs(PLATEAUS[name] - d) <= tolerance else None


def effective_neurons(rows: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """``1 / sum_k w_ik^4``: over how many neurons each feature is spread, from 1 to d; NaN for rows of zeros."""
    fourth = unit(rows).square().square().sum(1)
    return torch.where(fourth > 0, 1 / fourth, torch.nan)


def features_per_neuron(rows: Float[Tensor, "n d"], threshold: float = 0.2) -> Int[Tensor, " d"]:
    """How many features have a weight ``|w_ik|`` above `threshold` on each neuron; a neuron with several is
    polysemantic."""
    return (unit(rows).abs() > threshold).sum(0)


def rank(rows: Float[Tensor, "n d"], tolerance: float = 1e-2) -> int:
    """The number of singular values of the unit rows above `tolerance` times the largest."""
    values = torch.linalg.svdvals(unit(rows))
    return int((values > tolerance * values[0]).sum()) if float(values[0]) > 0 else 0


@dataclass(frozen=True)
class Superposition:
    """Three senses in which features can be in superposition, which are not equivalent."""

    polysemantic: bool
    """Some neuron has weight from several features."""
    spread: bool
    """Some feature is spread over several neurons (Olah et al. 2020, 'Zoom In')."""
    crowded: bool
    """There are more features than dimensions they span (Elhage et al.): no change of basis can separate them."""


def superposition(
    rows: Float[Tensor, "n d"], represented: Bool[Tensor, " n"] | None = None, tolerance: float = 1e-2
) -> Superposition:
    """Which senses hold for the `represented` rows; by default, for all rows that are not zero.

    `crowded` implies `polysemantic`, but not conversely: rotated orthonormal features are polysemantic and spread, yet
    not crowded.
    """
    kept = rows[rows.norm(dim=1) > 0 if represented is None else represented]
    return Superposition(
        polysemantic=bool((features_per_neuron(kept) > 1).any()),
        spread=bool((effective_neurons(kept) > 1 + tolerance).any()),
        crowded=len(kept) > rank(kept, tolerance),
    )
