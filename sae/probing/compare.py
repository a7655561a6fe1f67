"""Paired comparisons over tasks, with significance tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sae.numerics.paired_tests import paired


class PairedComparison(NamedTuple):
    """The differences ``a - b`` over pairs, from :func:`sae.numerics.paired_tests.paired`."""

    n: int
    """The number of pairs."""
    difference: float
    """The mean difference."""
    half: float
    """Half the width of its 95% t-interval."""
    t_p: float
    """The p value of the paired t test."""
    wilcoxon_p: float
    """The p value of Wilcoxon's signed-rank test."""
    d_z: float
    """The effect size: mean over standard deviation of the differences."""
    wins: int
    """The number of pairs in which `a` is larger."""
    losses: int
    """The number of pairs in which `a` is smaller."""
    ties: int
    """The number of equal pairs."""


def paired_comparison(a: Sequence[float], b: Sequence[float]) -> PairedComparison:
    """Compares pairs; those with a value that is not finite are left out."""
    result = paired([[x] for x in a], [[y] for y in b])
    e, decided = result.estimate, result.wins + result.losses
    tests = result.p, result.p_ranks, result.effect
    return PairedComparison(e.n, e.mean, e.half, *tests, result.wins, result.losses, e.n - decided)
