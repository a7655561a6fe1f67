"""Confidence intervals: of means, of differences between methods, of proportions, and of repeated random controls."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean with its confidence interval ``mean +- half``."""

    mean: float
    """The mean."""
    half: float
    """Half the width of the interval; NaN if a single value gives no interval."""
    n: int
    """The number of values."""

    @property
    def low(self) -> float:
        return self.mean - self.half

    @property
    def high(self) -> float:
        return self.mean + self.half


class Interval(NamedTuple):
    """A value with the lower and upper end of its interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


def of_share(hits: int, n: int, level: float = LEVEL) -> Interval:
    """``hits / n`` with Wilson's interval (Wilson 1927), which is valid at 0 and 1 as well; NaN if n is 0."""
    if n == 0:
        return Interval(math.nan, math.nan, math.nan)
    from scipy import stats  # which takes most of a second to import

    wilson = stats.binomtest(hits, n).proportion_ci(level, "wilson")
    return Interval(hits / n, float(wilson.low), float(wilson.high))


def of_draws(values: Sequence[float], level: float = LEVEL) -> Interval:
    """The mean of repeated draws of a random control, with the percentiles that contain `level` of the draws.

    A value outside them is unlike the control. (A confidence interval of the mean would narrow with every draw.)
    """
    x = np.array([v for v in values if math.isfinite(v)])
    if not len(x):
        return Interval(math.nan, math.nan, math.nan)
    low, high = np.quantile(x, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(x.mean()), float(low), float(high))


def of_parts(values: Sequence[float], level: float = LEVEL) -> Interval:
    """The mean of measurements on disjoint parts of the data, with its t-interval."""
    estimate = mean_interval(values, level)
    return Interval(estimate.mean, estimate.low, estimate.high)


def mean_interval(values: Sequence[float], level: float = LEVEL) -> Estimate:
    """The mean with its two-sided t-interval, ``m +- t_{n-1} s / sqrt(n)``.

    Values that are not finite are left out. Without any value the mean is NaN; a single value has no interval.
    """
    x = [v for v in values if math.isfinite(v)]
    if not x:
        return Estimate(math.nan, math.nan, 0)
    mean = math.fsum(x) / len(x)
    return Estimate(mean, _t(level, float(len(x) - 1)) * math.sqrt(_variance_of_mean(x, mean)), len(x))


def difference(a: Sequence[float], b: Sequence[float], level: float = LEVEL) -> Estimate:
    """``mean(a) - mean(b)`` with Welch's interval (Welch 1947), which does not assume equal variances.

    A side with a single value counts as a constant, which is right for a method that does not depend on the seed; the
    interval is then that of the other side alone. `n` is the number of values on both sides.
    """
    x, y = ([v for v in side if math.isfinite(v)] for side in (a, b))
    if not x or not y:
        return Estimate(math.nan, math.nan, 0)
    mean_x, mean_y = math.fsum(x) / len(x), math.fsum(y) / len(y)
    sides = [(_variance_of_mean(v, m), len(v)) for v, m in ((x, mean_x), (y, mean_y)) if len(v) > 1]
    variance = math.fsum(v for v, _ in sides)
    per_freedom = math.fsum(v**2 / (n - 1) for v, n in sides)
    freedom = variance**2 / per_freedom if per_freedom else float(sum(n - 1 for _, n in sides))
    return Estimate(mean_x - mean_y, _t(level, freedom) * math.sqrt(variance), len(x) + len(y))


def bootstrap(values: NDArray[np.float64], seed: int, draws: int = 1000, level: float = LEVEL) -> tuple[float, float]:
    """The percentile interval of the mean (Efron 1979), for values too skewed or bounded for a t-interval.

    Values that are not finite are left out; without any value both ends are NaN.
    """
    x = values[np.isfinite(values)]
    if not len(x):
        return math.nan, math.nan
    means = x[np.random.default_rng(seed).integers(len(x), size=(draws, len(x)))].mean(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _variance_of_mean(x: Sequence[float], mean: float) -> float:
    return math.fsum((v - mean) ** 2 for v in x) / max(len(x) - 1, 1) / len(x)


def _t(level: float, freedom: float) -> float:
    from scipy import stats

    return float(stats.t.ppf((1 + level) / 2, freedom)) if freedom > 0 else math.nan
