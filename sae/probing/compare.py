"""Whether a difference is more than chance: paired comparisons over tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sae.numerics.paired_tests import paired


class Compared(NamedTuple):
    """``a - b`` over `n` pairs: the mean with half of its 95% t-interval, the p values of the paired t test and of
    Wilcoxon's signed-rank test, the effect size ``d_z``, and how many pairs `a` won, lost and tied; as
    :func:`sae.numerics.paired_tests.paired` tells them."""

    n: int
    difference: float
    half: float
    t_p: float
    wilcoxon_p: float
    d_z: float
    wins: int
    losses: int
    ties: int


def paired_comparison(a: Sequence[float], b: Sequence[float]) -> Compared:
    """Pairs of which one side is not finite are left out."""
    found = paired([[x] for x in a], [[y] for y in b])
    e, decided = found.estimate, found.wins + found.losses
    tests = found.p, found.p_ranks, found.effect
    return Compared(e.n, e.mean, e.half, *tests, found.wins, found.losses, e.n - decided)
