"""Antipodal pairs and polytopes among many directions: sets whose pairwise cosines are those of a regular figure.

    digon        cos = -1             below -.9
    triangle     cos = -1/2           three
    tetrahedron  cos = -1/3           four
    pentagon     cos = cos(2 pi/5) between neighbours, cos(4 pi/5) between the others: five

each within `tolerance`; except for digons, the dimensions per feature of the set by itself must also be those of the
figure (`PLATEAUS`, after Elhage et al. 2022, 'Toy Models of Superposition').
:mod:`sae.analysis.geometry.polytopes` takes the connected components of a graph, which is right if features settle into
mutually orthogonal polytopes; among thousands of decoder rows that graph is connected, so each set is searched for
separately here, and sets may share rows.

Large sets of directions contain such figures by chance, more of them in fewer dimensions. Every count is therefore
compared with the same count among random rows ~ N(0, C), C the covariance of the activations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae.analysis.geometry.geometry import GEOMETRY_ROWS_AT_ONCE, PLATEAUS
from sae.analysis.geometry.moments import matched_gaussian
from sae.numerics.matching import unit
from sae.numerics.statistics import Interval, of_draws

ANTIPODAL = -0.9
"""The cosine below which two rows are antipodal."""
MOST_FOUND = 100_000
"""The count stops here: figures as common as that occur by chance."""
FIRST_AT_ONCE, ENTRIES_AT_ONCE = 64, 1 << 24
"""Block sizes of the search: first corners, and entries of its masks."""

NEAR, FAR = math.cos(2 * math.pi / 5), math.cos(4 * math.pi / 5)
"""The cosines of a pentagon's corners with their neighbours and with the others."""


def _simplex(corners: int) -> list[list[float]]:
    return [[1.0 if i == j else -1 / (corners - 1) for j in range(corners)] for i in range(corners)]


FIGURES: dict[str, list[list[float]]] = {
    "triangle": _simplex(3),
    "tetrahedron": _simplex(4),
    "pentagon": [[(1.0, NEAR, FAR, FAR, NEAR)[(i - j) % 5] for j in range(5)] for i in range(5)],
}
"""The matrix of cosines between the corners of each figure."""


class Count(NamedTuple):
    """How often a figure occurs, compared with random rows of the activations' covariance."""

    figure: str
    """The name of the figure."""
    n: int
    """How many sets of rows form it."""
    n_chance: Interval
    """The same among random rows."""
    rows: float
    """The share of rows that belong to at least one such set."""
    rows_chance: Interval
    """The same among random rows."""
    examples: list[tuple[int, ...]]
    """Row numbers of a few sets, nearest to the figure first."""


def counts(
    rows: Float[Tensor, "n d"],
    covariance: Float[Tensor, "d d"],
    tolerance: float = 0.1,
    draws: int = 10,
    seed: int = 0,
) -> list[Count]:
    """Digons, triangles, tetrahedra and pentagons among rows and among random rows. Rows of zeros are ignored.

    Memory is two bytes for each pair of rows plus one block (keep to some ten thousand rows); time grows with the
    square of the rows and with the number of sets found.
    """
    rows = rows[rows.norm(dim=1) > 0].float()
    null = [random.to(rows) for random in matched_gaussian(covariance, len(rows), seed, draws)]
    results: list[Count] = []
    for name in ("digon", *FIGURES):
        sets, chance = find_figures(name, rows, tolerance), [find_figures(name, x, tolerance) for x in null]
        results.append(
            Count(
                name,
                len(sets),
                of_draws([float(len(random)) for random in chance]),
                _covered(sets, len(rows)),
                of_draws([_covered(random, len(rows)) for random in chance]),
                _nearest(name, rows, sets),
            )
        )
    return results


def antipodal(rows: Float[Tensor, "n d"], below: float = ANTIPODAL) -> Int[Tensor, "sets 2"]:
    """The pairs of rows whose cosine is less than `below`."""
    pairs = torch.cat([*_blocks(unit(rows), lambda cosine: (cosine < below).nonzero())])
    return pairs[pairs[:, 0] < pairs[:, 1]]


def find_figures(name: str, rows: Float[Tensor, "n d"], tolerance: float = 0.1) -> Int[Tensor, "sets corners"]:
    """The sets of rows that form the figure, each once with ascending row numbers; at most `MOST_FOUND` of them."""
    if name == "digon":
        return antipodal(rows)
    template, directions = FIGURES[name], unit(rows)
    near = {
        value: torch.cat([*_blocks(directions, lambda c, value=value: (c - value).abs() <= tolerance)])
        for value in {round(v, 9) for v in template[0] if v < 1}
    }
    found = torch.zeros(0, len(template), dtype=torch.long, device=rows.device)
    for first in torch.arange(len(rows), device=rows.device).split(FIRST_AT_ONCE):
        sets = first[:, None]
        for k in range(1, len(template)):
            sets = _extended(sets, [near[round(template[j][k], 9)] for j in range(k)])
        sets = sets.sort(1).values.unique(dim=0)
        found = torch.cat([found, sets[(_dimensions(directions, sets) - PLATEAUS[name]).abs() <= tolerance]])
        if len(found) >= MOST_FOUND:
            return found[:MOST_FOUND]
    return found


def _extended(sets: Int[Tensor, "sets k"], near: list[Bool[Tensor, "n n"]]) -> Int[Tensor, "more k_plus_1"]:
    """The sets with one more corner that has the right cosine with every other. All corners of these figures are
    equivalent, so the lowest row number may come first."""
    n = near[0].shape[1]
    numbers = torch.arange(n, device=sets.device)
    extended: list[Tensor] = []
    for block in sets.split(max(1, ENTRIES_AT_ONCE // n)):
        fits = numbers > block[:, :1]
        for corner, near_corner in zip(block.T, near, strict=True):
            fits &= near_corner[corner]
        which, new = fits.nonzero(as_tuple=True)
        extended.append(torch.cat([block[which], new[:, None]], dim=1))
    return torch.cat([*extended, sets.new_zeros(0, sets.shape[1] + 1)])


def _dimensions(directions: Float[Tensor, "n d"], sets: Int[Tensor, "sets corners"]) -> Float[Tensor, " sets"]:
    """The mean dimensions per feature of each set by itself, ``mean_i 1 / sum_j cos(w_i, w_j)^2``."""
    corners = [directions[block] for block in sets.split(4096)]
    per_corner = [1 / (x @ x.transpose(1, 2)).square().sum(2) for x in corners]
    return torch.cat([*per_corner, directions.new_zeros(0, sets.shape[1])]).mean(1)


def _blocks(directions: Float[Tensor, "n d"], measure: Callable[[Tensor], Tensor]) -> Iterator[Tensor]:
    """Applies `measure` to the cosines of a block of rows with all rows, block by block. It returns a boolean mask, or
    indices ``[n, 2]`` within the block, which are shifted to row numbers."""
    for start in range(0, len(directions), GEOMETRY_ROWS_AT_ONCE):
        result = measure(directions[start : start + GEOMETRY_ROWS_AT_ONCE] @ directions.T)
        yield result if result.dtype == torch.bool else result + torch.tensor([start, 0], device=result.device)


def _covered(sets: Int[Tensor, "sets corners"], n: int) -> float:
    """The share of `n` rows that belong to at least one set."""
    return len(sets.unique()) / n if n else math.nan


def _nearest(name: str, rows: Tensor, sets: Int[Tensor, "sets corners"], most: int = 5) -> list[tuple[int, ...]]:
    """The `most` sets whose dimensions per feature are nearest to the figure's."""
    off = (_dimensions(unit(rows), sets) - PLATEAUS[name]).abs()
    return [tuple(sets[i].tolist()) for i in off.argsort(stable=True)[:most].tolist()]
