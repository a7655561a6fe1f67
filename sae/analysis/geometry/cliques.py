"""Antipodal pairs and polytopes among many directions: sets whose cosines are those of a regular figure.

    digon        cos = -1             below -.9
    triangle     cos = -1/2           three
    tetrahedron  cos = -1/3           four
    pentagon     cos = cos(2 pi/5) between neighbours, cos(4 pi/5) between the others: five

each within `tolerance`, and with the dimensions per feature of the figure (`PLATEAUS`, after Elhage et al. 2022, 'Toy
Models of Superposition') where the set is taken by itself. :mod:`sae.analysis.geometry.polytopes` takes the parts of
a graph,
which is right where features settle into polytopes at right angles to each other; among thousands of decoder rows that
graph is one piece, so sets are looked for by themselves here, and may share rows.

Large sets of directions hold such figures by chance, the more the fewer dimensions they use. So every count is held
against the same count among random rows ~ N(0, C), C the covariance of the activations.
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
MOST_FOUND = 100_000
"""Where there are more, the count stops: such figures are in reach of chance anyway."""
FIRST_AT_ONCE, ENTRIES_AT_ONCE = 64, 1 << 24

NEAR, FAR = math.cos(2 * math.pi / 5), math.cos(4 * math.pi / 5)


def _simplex(corners: int) -> list[list[float]]:
    return [[1.0 if i == j else -1 / (corners - 1) for j in range(corners)] for i in range(corners)]


FIGURES: dict[str, list[list[float]]] = {
    "triangle": _simplex(3),
    "tetrahedron": _simplex(4),
    "pentagon": [[(1.0, NEAR, FAR, FAR, NEAR)[(i - j) % 5] for j in range(5)] for i in range(5)],
}
"""The cosines of a figure's corners."""


class Count(NamedTuple):
    """How many of a figure there are, the share of rows in one of them, and both among random rows of the activations'
    covariance; `examples` are some of those found, nearest to the figure first."""

    figure: str
    n: int
    n_chance: Interval
    rows: float
    rows_chance: Interval
    examples: list[tuple[int, ...]]


def counts(
    rows: Float[Tensor, "n d"],
    covariance: Float[Tensor, "d d"],
    tolerance: float = 0.1,
    draws: int = 10,
    seed: int = 0,
) -> list[Count]:
    """Digons, triangles, tetrahedra and pentagons among rows, beside random ones. Rows of zeros are none.

    Memory is two bytes for each pair of rows and a block (keep to some ten thousand rows); time grows with the square,
    and with what is found.
    """
    rows = rows[rows.norm(dim=1) > 0].float()
    null = [random.to(rows) for random in matched_gaussian(covariance, len(rows), seed, draws)]
    found: list[Count] = []
    for name in ("digon", *FIGURES):
        own, chance = look_for(name, rows, tolerance), [look_for(name, x, tolerance) for x in null]
        found.append(
            Count(
                name,
                len(own),
                of_draws([float(len(sets)) for sets in chance]),
                _covered(own, len(rows)),
                of_draws([_covered(sets, len(rows)) for sets in chance]),
                _nearest(name, rows, own),
            )
        )
    return found


def antipodal(rows: Float[Tensor, "n d"], below: float = ANTIPODAL) -> Int[Tensor, "sets 2"]:
    """The pairs whose cosine is below."""
    pairs = torch.cat([*_blocks(unit(rows), lambda cosine: (cosine < below).nonzero())])
    return pairs[pairs[:, 0] < pairs[:, 1]]


def look_for(name: str, rows: Float[Tensor, "n d"], tolerance: float = 0.1) -> Int[Tensor, "sets corners"]:
    """The sets of rows that form the figure, each once, by numbers that rise; `MOST_FOUND` of them at most."""
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
    """The sets with one more corner, near to each as it must be. All corners of these figures are alike, so the lowest
    number may stand first."""
    n = near[0].shape[1]
    numbers = torch.arange(n, device=sets.device)
    found: list[Tensor] = []
    for some in sets.split(max(1, ENTRIES_AT_ONCE // n)):
        fits = numbers > some[:, :1]
        for corner, alike in zip(some.T, near, strict=True):
            fits &= alike[corner]
        which, new = fits.nonzero(as_tuple=True)
        found.append(torch.cat([some[which], new[:, None]], dim=1))
    return torch.cat([*found, sets.new_zeros(0, sets.shape[1] + 1)])


def _dimensions(directions: Float[Tensor, "n d"], sets: Int[Tensor, "sets corners"]) -> Float[Tensor, " sets"]:
    """The mean dimensions per feature of each set by itself, ``mean_i 1 / sum_j cos(w_i, w_j)^2``."""
    corners = [directions[some] for some in sets.split(4096)]
    own = [1 / (x @ x.transpose(1, 2)).square().sum(2) for x in corners]
    return torch.cat([*own, directions.new_zeros(0, sets.shape[1])]).mean(1)


def _blocks(directions: Float[Tensor, "n d"], of: Callable[[Tensor], Tensor]) -> Iterator[Tensor]:
    """What there is to be said of the cosines of some rows with all, block by block; where numbers of rows and columns
    are told, those of the rows count from the first of all."""
    for start in range(0, len(directions), GEOMETRY_ROWS_AT_ONCE):
        told = of(directions[start : start + GEOMETRY_ROWS_AT_ONCE] @ directions.T)
        yield told if told.dtype == torch.bool else told + torch.tensor([start, 0], device=told.device)


def _covered(sets: Int[Tensor, "sets corners"], n: int) -> float:
    return len(sets.unique()) / n if n else math.nan


def _nearest(name: str, rows: Tensor, sets: Int[Tensor, "sets corners"], most: int = 5) -> list[tuple[int, ...]]:
    """Those whose dimensions per feature are nearest to the figure's."""
    off = (_dimensions(unit(rows), sets) - PLATEAUS[name]).abs()
    return [tuple(sets[i].tolist()) for i in off.argsort(stable=True)[:most].tolist()]
