"""A score along a sweep of sparsity: its value at a given L0, and its mean over a range of them.

Methods stop at different sparsities, and most scores depend on sparsity more than on the method. So a sweep is read as
a curve through its points, linear in ``log L0`` between neighbours, and methods are compared where the curves have the
same L0 (as Gao et al. 2024 and SynthSAEBench do by tuning). Nothing is extrapolated: outside a sweep there is no value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Frontier:
    """A curve through points of a sweep: ascending ``log L0`` and the scores there."""

    log_l0: NDArray[np.float64]
    score: NDArray[np.float64]

    @classmethod
    def through(cls, points: Sequence[tuple[float, float]]) -> Frontier:
        """From pairs of L0 and score; a pair that is not finite, or has an L0 of 0, is no point of the curve, and those
        of one L0 are one point, their mean."""
        kept = [(x, y) for x, y in points if x > 0 and math.isfinite(x) and math.isfinite(y)]
        x = np.array(sorted({math.log(x) for x, _ in kept}))
        y = np.array([np.mean([score for l0, score in kept if math.log(l0) == at]) for at in x], dtype=np.float64)
        return cls(x, y)

    @property
    def reach(self) -> tuple[float, float]:
        """The least and the largest L0 of the sweep; NaN where it has no point."""
        if not len(self.log_l0):
            return math.nan, math.nan
        return float(np.exp(self.log_l0[0])), float(np.exp(self.log_l0[-1]))

    def at(self, l0: float) -> float:
        """The score at an L0, NaN outside the sweep. A point of the sweep within a hundredth of its L0 is reached."""
        low, high = self.reach
        if not low * 0.99 <= l0 <= high * 1.01:
            return math.nan
        return float(np.interp(math.log(l0), self.log_l0, self.score))

    def area(self, low: float, high: float) -> float:
        """The mean score over ``log L0`` from `low` to `high`, the area under the curve over the width of the range:
        a score between that at the one end and that at the other, 1 where the method is perfect throughout.

        NaN where the sweep does not reach over the whole range, or the range is empty.
        """
        ends = self.at(low), self.at(high)
        if not low < high or any(math.isnan(end) for end in ends):
            return math.nan
        inside = (self.log_l0 > math.log(low)) & (self.log_l0 < math.log(high))
        x = np.concatenate([[math.log(low)], self.log_l0[inside], [math.log(high)]])
        y = np.concatenate([[ends[0]], self.score[inside], [ends[1]]])
        return float((np.diff(x) * (y[1:] + y[:-1]) / 2).sum() / (x[-1] - x[0]))


def shared_range(frontiers: Sequence[Frontier]) -> tuple[float, float]:
    """The L0 that every sweep of more than one point reaches; NaN where there is none."""
    reaches = [f.reach for f in frontiers if len(f.log_l0) > 1]
    low = max((reach[0] for reach in reaches), default=math.nan)
    high = min((reach[1] for reach in reaches), default=math.nan)
    return (low, high) if low < high else (math.nan, math.nan)
