"""Features that a toy model represents, features that it merges, and the polytopes in which they share dimensions.

Features are rows W_i of any length. The represented features form a graph, with an edge between two that are not nearly
orthogonal; its connected components are groups that share dimensions among themselves and with no other feature. A
group is named by its number of features and the dimensions per feature (Elhage et al. 2022, 'Toy Models of
Superposition'). Polytopes that are products split into their factors, which are orthogonal: a square and an octahedron
into digons, a triangular bipyramid into a triangle and a digon.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae.analysis.geometry.geometry import dimensionality, rank
from sae.numerics.matching import MERGED, unit

_THRESHOLDS = (0.1, 0.5)
"""Norms: a feature is ignored below the first, represented above the second, and partly represented in between."""

SETTLED = {
    ("dedicated", "dedicated"): (1, 1.0),
    ("digon", "digons"): (2, 1 / 2),
    ("triangle", "triangles"): (3, 2 / 3),
    ("tetrahedron", "tetrahedra"): (4, 3 / 4),
    ("pentagon", "pentagons"): (5, 2 / 5),
    ("hexagon", "hexagons"): (6, 1 / 3),
    ("square antiprism", "square antiprisms"): (8, 3 / 8),
}
"""For each polytope, named in the singular and plural, its number of corners and the dimensions per corner."""


@dataclass(frozen=True)
class Group:
    """Features that share dimensions."""

    features: tuple[int, ...]
    """The numbers of the features."""
    rank: int
    """How many dimensions they span."""
    dimensionality: float
    """Mean dimensions per feature; merged features count as one."""
    polytope: str | None
    """The polytope they form; None if it is not in `SETTLED`."""


def represented(rows: Float[Tensor, "n d"], threshold: float = _THRESHOLDS[1]) -> Bool[Tensor, " n"]:
    """Which features have a norm above the threshold."""
    return rows.norm(dim=1) > threshold


def n_represented(rows: Float[Tensor, "n d"], thresholds: Sequence[float] = _THRESHOLDS) -> dict[float, int]:
    """How many features have a norm above each threshold; the count is meaningful if the thresholds agree."""
    return {threshold: int(represented(rows, threshold).sum()) for threshold in thresholds}


def merge_parallel(
    rows: Float[Tensor, "n d"], cosine: float = MERGED, threshold: float = _THRESHOLDS[1]
) -> list[tuple[int, ...]]:
    """The represented features in classes of one direction: connected components of cosines above `cosine`.

    Correlated features may share a direction; a single latent then recovers them all."""
    directions = unit(rows.float())
    return _parts(directions @ directions.T > cosine, represented(rows, threshold))


def groups(
    rows: Float[Tensor, "n d"],
    angle: float = 0.2,
    threshold: float = _THRESHOLDS[1],
    merge: float = MERGED,
    tolerance: float = 0.03,
) -> list[Group]:
    """The groups of represented features, the largest first. Features with |cos| above `angle` share dimensions; those
    with a cosine above `merge` count as one, represented by the longest."""
    directions = unit(rows.float())
    norm = rows.norm(dim=1)
    classes = merge_parallel(rows, merge, threshold)
    first = {max(same, key=lambda i: float(norm[i])): same for same in classes}
    result: list[Group] = []
    for part in _parts((directions @ directions.T).abs() > angle, represented(rows, threshold)):
        corners = rows[[i for i in part if i in first]].float()
        d = float(dimensionality(corners).mean())
        result.append(Group(part, rank(corners), d, _name(len(corners), d, tolerance)))
    return sorted(result, key=lambda group: (-len(group.features), group.features))


def described(found: Sequence[Group]) -> str:
    """Groups in words, e.g. ``2 pentagons, 1 digon``."""
    plural = dict(SETTLED)
    counts: Counter[str] = Counter(group.polytope or f"group of {len(group.features)}" for group in found)
    names = {one: many for one, many in plural}
    parts = [
        f"{n} {name if n == 1 else names.get(name, name.replace('group', 'groups'))}" for name, n in counts.items()
    ]
    return ", ".join(parts) or "nothing represented"


def _name(corners: int, d: float, tolerance: float) -> str | None:
    for (name, _), (size, settled) in SETTLED.items():
        if size == corners and abs(settled - d) <= tolerance:
            return name
    return None


def _parts(edges: Bool[Tensor, "n n"], among: Bool[Tensor, " n"]) -> list[tuple[int, ...]]:
    """The connected components of a graph restricted to the nodes `among`, in the order of their first nodes."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    nodes: Int[Tensor, " n"] = among.nonzero()[:, 0]
    inside = edges[nodes][:, nodes].cpu().numpy()
    if not len(nodes):
        return []
    n, label = connected_components(csr_array(inside), directed=False)
    return [tuple(nodes[np.flatnonzero(label == part)].tolist()) for part in range(n)]
