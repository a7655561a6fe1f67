"""Statistics of values that vary with the training data set and, within a data set, with the initial seed.

    y_ds = m + a_d + e_ds,    a_d ~ (0, sd_data^2),    e_ds ~ (0, sd_seed^2)

Dictionaries trained on one data set share its effect a_d, so three seeds on each of five data sets give five
independent values of m, not fifteen. Every function takes `groups`: the values of the seeds of each data set.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np

from sae.numerics.statistics import LEVEL, Estimate, mean_interval

Groups = Sequence[Sequence[float]]
"""For each data set, the values of its seeds."""
LEAST_FOR_RANKS = 6
"""The fewest data sets with which a signed-rank test can give a p-value below .05; five give at least .0625."""


class Parts(NamedTuple):
    """Standard deviations of the two random effects; NaN if they cannot be estimated."""

    data: float
    """Standard deviation between data sets."""
    seed: float
    """Standard deviation between seeds on one data set."""


def finite(groups: Groups) -> list[list[float]]:
    """The groups without values that are not finite, and without groups that have no others."""
    return [kept for group in groups if (kept := _finite(group))]


def nested_mean(groups: Groups, level: float = LEVEL) -> Estimate:
    """The mean over data sets with the t-interval of their means; `n` is the number of data sets.

    For a single data set it is the interval over its seeds, which does not cover other data; `n` is then the number of
    seeds.
    """
    kept = finite(groups)
    return mean_interval(kept[0] if len(kept) == 1 else [math.fsum(g) / len(g) for g in kept], level)


def variance_parts(groups: Groups) -> Parts:
    """The standard deviations between data sets and between seeds, by one-way analysis of variance.

        sd_seed^2 = MS_within,    sd_data^2 = max(0, (MS_between - MS_within) / n_0)

    with ``n_0 = (N - sum n_d^2 / N) / (D - 1)`` for groups of unequal size (Searle, Casella and McCulloch 1992,
    'Variance components', section 3.6). With one seed each the two cannot be separated, and both are NaN.
    """
    kept = finite(groups)
    n, sizes = sum(map(len, kept)), [len(group) for group in kept]
    if n == len(kept):
        return Parts(math.nan, math.nan)
    means = [math.fsum(group) / len(group) for group in kept]
    within = math.fsum((v - m) ** 2 for group, m in zip(kept, means, strict=True) for v in group) / (n - len(kept))
    if len(kept) < 2:
        return Parts(math.nan, math.sqrt(within))
    grand = math.fsum(v for group in kept for v in group) / n
    between = math.fsum(s * (m - grand) ** 2 for s, m in zip(sizes, means, strict=True)) / (len(kept) - 1)
    n_0 = (n - math.fsum(s * s for s in sizes) / n) / (len(kept) - 1)
    return Parts(math.sqrt(max(0.0, (between - within) / n_0)), math.sqrt(within))


def nested_bootstrap(groups: Groups, seed: int, draws: int = 2000, level: float = LEVEL) -> tuple[float, float]:
    """The percentile interval of the mean over data sets; data sets are drawn with replacement, then their seeds.

    Its levels are widened to the expanded percentile interval of Hesterberg 2015 ('What teachers should know about the
    bootstrap', section 4.2), because the bootstrap over ``D`` data sets has only ``(D - 1) / D`` of their variance and
    treats their spread as known:

        alpha' / 2 = Phi(-sqrt(D / (D - 1)) t_{alpha / 2, D - 1})

    The interval stays within the range of the values, so that of a share stays below 1. This costs coverage: five data
    sets whose means are all on one side of the true mean, which happens once in 16, do not cover it. NaN for fewer than
    two values.
    """
    kept = finite(groups)
    if len(kept) == 1:  # only the seeds vary
        kept = [[value] for value in kept[0]]
    n = len(kept)
    if n < 2:
        return math.nan, math.nan
    from scipy import stats  # which takes most of a second to import

    rng = np.random.default_rng(seed)
    longest = max(map(len, kept))
    table = np.full((n, longest), np.nan)
    for row, group in zip(table, kept, strict=True):
        row[: len(group)] = group
    sizes = np.array([len(group) for group in kept])
    which = rng.integers(n, size=(draws, n))
    place = (rng.random((draws, n, longest)) * sizes[which][..., None]).astype(np.int64)
    drawn = table[which[..., None], place]
    inside = np.arange(longest) < sizes[which][..., None]
    means = np.where(inside, drawn, 0).sum(-1) / sizes[which]
    tail = float(stats.norm.cdf(-math.sqrt(n / (n - 1)) * stats.t.ppf((1 + level) / 2, n - 1)))
    low, high = np.quantile(means.mean(1), [tail, 1 - tail])
    return float(low), float(high)


@dataclass(frozen=True)
class Paired:
    """How much larger `a` is than `b` on the same data sets."""

    estimate: Estimate
    """The mean difference ``a - b`` with its t-interval."""
    effect: float
    """The mean difference divided by the standard deviation of the differences (Cohen's d_z)."""
    p: float
    """The p-value of the two-sided paired t-test."""
    p_ranks: float
    """The p-value of Wilcoxon's signed-rank test; NaN below `LEAST_FOR_RANKS` data sets, where it cannot be small."""
    wins: int
    """The number of data sets on which `a` is larger."""
    losses: int
    """The number of data sets on which `b` is larger."""


def paired(a: Groups, b: Groups, level: float = LEVEL) -> Paired:
    """Compares the means over seeds of two methods, data set by data set.

    `a` and `b` have an entry for each data set, in the same order; data sets without a finite value of both are left
    out.
    """
    differences = [
        math.fsum(x) / len(x) - math.fsum(y) / len(y)
        for x, y in zip(map(_finite, a), map(_finite, b), strict=True)
        if x and y
    ]
    estimate = mean_interval(differences, level)
    wins, losses = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    if len(differences) < 2:
        return Paired(estimate, math.nan, math.nan, math.nan, wins, losses)
    from scipy import stats

    with np.errstate(divide="ignore", invalid="ignore"):  # no spread: infinite, or NaN where the difference is 0
        effect = float(np.float64(estimate.mean) / np.std(differences, ddof=1))
    p = 2 * float(stats.t.sf(abs(effect) * math.sqrt(len(differences)), len(differences) - 1))
    ranks = math.nan
    if wins + losses >= LEAST_FOR_RANKS:
        ranks = float(cast(Any, stats.wilcoxon(differences)).pvalue)
    return Paired(estimate, effect, p, ranks, wins, losses)


def holm(p: Sequence[float]) -> list[float]:
    """Adjusts p-values for several comparisons so that the probability of any false positive stays below the level
    (Holm 1979). NaN stays NaN and does not count as a comparison."""
    known = sorted((value, i) for i, value in enumerate(p) if not math.isnan(value))
    adjusted, largest = [math.nan] * len(p), 0.0
    for rank, (value, i) in enumerate(known):
        largest = max(largest, min(1.0, value * (len(known) - rank)))
        adjusted[i] = largest
    return adjusted


def benjamini_hochberg(p: Sequence[float]) -> list[float]:
    """For each of several tests, the smallest false discovery rate at which it is among those that are found (Benjamini
    and Hochberg 1995), for tests that are independent or positively dependent. NaN stays NaN and does not count as a
    test."""
    known = sorted((value, i) for i, value in enumerate(p) if not math.isnan(value))
    adjusted, smallest = [math.nan] * len(p), 1.0
    for rank in range(len(known), 0, -1):
        value, i = known[rank - 1]
        smallest = min(smallest, value * len(known) / rank)
        adjusted[i] = smallest
    return adjusted


def _finite(group: Sequence[float]) -> list[float]:
    return [value for value in group if math.isfinite(value)]
