"""Whether a difference is more than chance: paired comparisons over tasks."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from sae.statistics import mean_interval


class Compared(NamedTuple):
    """``a - b`` over `n` pairs: the mean with half of its 95% t-interval, the p values of the paired t test and of
    Wilcoxon's signed-rank test (1945), the effect size ``d_z``, the mean difference over the standard deviation of the
    differences (Cohen 1988), and how many pairs `a` won, lost and tied. NaN where undefined."""

    n: int
    difference: float
    half: float
    t_p: float
    wilcoxon_p: float
    d_z: float
    wins: int
    losses: int
    ties: int


def compare(a: Sequence[float], b: Sequence[float]) -> Compared:
    """Pairs of which one side is not finite are left out."""
    from scipy import stats

    one_sample: Any = stats.ttest_1samp
    signed_rank: Any = stats.wilcoxon
    both = [x - y for x, y in zip(a, b, strict=True) if math.isfinite(x) and math.isfinite(y)]
    d = np.array(both, dtype=np.float64)
    mean = mean_interval(both)
    spread = float(d.std(ddof=1)) if len(d) > 1 else math.nan
    varies = bool(spread > 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of differences that are all alike but for rounding
        t_p = float(one_sample(d, 0.0).pvalue) if varies else math.nan
        wilcoxon = float(signed_rank(d).pvalue) if len(d) and d.any() else math.nan
    return Compared(
        len(d),
        mean.mean,
        mean.half,
        t_p,
        wilcoxon,
        mean.mean / spread if varies else math.nan,
        int((d > 0).sum()),
        int((d < 0).sum()),
        int((d == 0).sum()),
    )
