"""The geometry of features: how much of a dimension each has, which polytopes they form, which neurons they share.

For rows W_i (true directions, a toy model's columns, or decoder rows) with unit rows w_i, after Elhage et al. 2022,
'Toy Models of Superposition', where not said otherwise. Rows of length zero are no features: they have no
dimensionality, no share in any neuron, and disturb nobody. Two notions are kept apart: interference and dimensionality
do not depend on the basis; `effective_neurons` and `features_per_neuron` do, and mean something only where the
basis does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae.numerics.matching import unit

GEOMETRY_ROWS_AT_ONCE = 1024

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
    """``sum_{j != i} (w_i . W_j)^2``: what the other features write along each; 0 for one at right angles to all."""
    between = (unit(rows) @ rows.T).square()
    return between.fill_diagonal_(0).sum(1)


def dimensionality(rows: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """``D_i = ||W_i||^2 / sum_j (w_i . W_j)^2``, the share of a dimension that a feature has; 0 for rows of zeros.

    It is also its capacity, ``||W_i||^4 / sum_j (W_i . W_j)^2`` (Scherlis et al. 2022). The sum over features is at
    most the rank, and equal to it where every dimension is used.
    """
    square = rows.square().sum(1)
    total = (unit(rows) @ rows.T).square().sum(1)
    return square / torch.where(total > 0, total, torch.ones_like(total))


def dimensions_per_feature(rows: Float[Tensor, "n d"]) -> float:
    """``D* = d / ||W||_F^2``, which counts a feature of norm one as one."""
    return rows.shape[1] / float(rows.square().sum())


def nearest_cosine(rows: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """``max_{j != i} |w_i . w_j|``: how nearly each row has a double or an opposite; its maximum is the coherence."""
    directions = unit(rows)
    found = torch.zeros(len(rows), device=rows.device, dtype=rows.dtype)
    for start in range(0, len(rows), GEOMETRY_ROWS_AT_ONCE):
        piece = (directions[start : start + GEOMETRY_ROWS_AT_ONCE] @ directions.T).abs()
        own = torch.arange(len(piece), device=piece.device)
        piece[own, start + own] = 0
        found[start : start + GEOMETRY_ROWS_AT_ONCE] = piece.amax(1)
    return found


def expected_nearest(n: int, d: int) -> float:
    """``sqrt(2 ln n / d)``, what `nearest_cosine` is on average for n uniform unit vectors in d dimensions, from above
    and for ``ln n`` well below d. So exp(d eps^2 / 2) vectors are within eps of right angles: exponentially many. The
    largest of all pairs, the coherence, is near ``sqrt(4 ln n / d)``, since there are n^2 of them."""
    return math.sqrt(2 * math.log(n) / d)


def plateau(d: float, tolerance: float = 0.02) -> str | None:
    """The polytope of a dimensionality, by the nearest of `PLATEAUS`; None where none is within `tolerance`."""
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
    """Three senses in which features can be in superposition, which are not the same.

    `polysemantic`: some neuron takes part in several features. `spread`: some feature is spread over several neurons
    (Olah et al. 2020, 'Zoom In'). `crowded`: there are more features than the dimensions they span (Elhage et al.);
    then no change of basis can part them.
    """

    polysemantic: bool
    spread: bool
    crowded: bool


def superposition(
    rows: Float[Tensor, "n d"], represented: Bool[Tensor, " n"] | None = None, tolerance: float = 1e-2
) -> Superposition:
    """Which senses hold of the `represented` rows; without it, of all that are not zero.

    `crowded` implies `polysemantic`, and the converse fails: rotated orthonormal features are polysemantic and spread,
    yet not crowded.
    """
    kept = rows[rows.norm(dim=1) > 0 if represented is None else represented]
    return Superposition(
        polysemantic=bool((features_per_neuron(kept) > 1).any()),
        spread=bool((effective_neurons(kept) > 1 + tolerance).any()),
        crowded=len(kept) > rank(kept, tolerance),
    )
