"""A score along a sparsity sweep: its value at a given L0, and its mean over a range of L0.

Methods end at different sparsities, and most scores depend more on sparsity than on the method. Therefore a sweep is
interpolated, linearly in ``log L0``, and methods are compared at the same L0 (which Gao et al. 2024 and SynthSAEBench
reach by tuning). Nothing is extrapolated: outside a sweep there is no value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class SweepCurve:
    """Piecewise linear curve of a score over ``log L0``."""

    log_l0: NDArray[np.float64]
    """Logarithm of L0 at the points of the sweep, ascending."""
    score: NDArray[np.float64]
    """The score at each point."""

    @classmethod
    def through(cls, points: Sequence[tuple[float, float]]) -> SweepCurve:
        """From pairs of L0 and score. Pairs that are not finite or have an L0 of 0 are dropped; scores at the same L0
        are averaged."""
        finite = [(x, y) for x, y in points if x > 0 and math.isfinite(x) and math.isfinite(y)]
        x = np.array(sorted({math.log(x) for x, _ in finite}))
        y = np.array([np.mean([score for l0, score in finite if math.log(l0) == at]) for at in x], dtype=np.float64)
        return cls(x, y)

    @property
    def reach(self) -> tuple[float, float]:
        """The smallest and the largest L0 of the sweep; NaN if it has no point."""
        if not len(self.log_l0):
            return math.nan, math.nan
        return float(np.exp(self.log_l0[0])), float(np.exp(self.log_l0[-1]))

    def at(self, l0: float) -> float:
        """The score at an L0; NaN if the L0 is more than 1% outside the sweep."""
        low, high = self.reach
        if not low * 0.99 <= l0 <= high * 1.01:
            return math.nan
        return float(np.interp(math.log(l0), self.log_l0, self.score))

    def area(self, low: float, high: float) -> float:
        """The mean score over ``log L0`` from `low` to `high`: the area under the curve divided by the width of the
        range. NaN if the sweep does not cover the whole range, or the range is empty."""
        ends = self.at(low), self.at(high)
        if not low < high or any(math.isnan(end) for end in ends):
            return math.nan
        inside = (self.log_l0 > math.log(low)) & (self.log_l0 < math.log(high))
        x = np.concatenate([[math.log(low)], self.log_l0[inside], [math.log(high)]])
        y = np.concatenate([[ends[0]], self.score[inside], [ends[1]]])
        return float((np.diff(x) * (y[1:] + y[:-1]) / 2).sum() / (x[-1] - x[0]))


def shared_range(curves: Sequence[SweepCurve]) -> tuple[float, float]:
    """The range of L0 that every curve with more than one point covers; NaN if there is none."""
    reaches = [curve.reach for curve in curves if len(curve.log_l0) > 1]
    low = max((reach[0] for reach in reaches), default=math.nan)
    high = min((reach[1] for reach in reaches), default=math.nan)
    return (low, high) if low < high else (math.nan, math.nan)
