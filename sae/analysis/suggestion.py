"""Choice of a target L0 without known features: the minimum of `decoder_cosine` over a sweep of targets.

Chanin and Garriga-Alonso 2025, 'Sparse but wrong', section 5: the mean |cosine| between decoder rows
(:mod:`sae.metrics.coherence`) has its minimum near the true L0. The paper locates it on a plot; here it is estimated
from several seeds, and no value is given where the sweep shows no clear minimum. With c_k the mean over the seeds at
target k, and m the target with the smallest mean:

    the run       the targets from the first to the last that do not differ significantly from m: one-sided t-test of
                  c_k > c_m at .05, with the variance between seeds pooled over all targets, as each has few seeds
    the interval  from halfway (in log L0) between the run and the target before it, to halfway to the one after
    the value     the vertex of a least-squares parabola of c over log L0, fitted to the run and one target on each
                  side; the middle of the interval if the parabola opens downwards, clipped to the interval otherwise
    the depth     the smaller of the rises of c on the two sides, divided by c_m

A run that reaches both ends of the sweep, or a depth below `SHALLOW`, is ``flat``; a run that reaches one end is
``low end`` or ``high end``: the minimum may lie beyond, and the sweep should be widened. Where the number of dimensions
is given, a minimum above `WELL_BELOW` times the mean |cosine| of random directions in them is ``chance``: the learned
directions then are about as alike as random ones at every target. Towards d_in, where any set of orthogonal directions
codes everything, the curve falls to about half of that level and rises again, wherever the true L0 is; at the true L0
of nearly orthogonal features it is a tenth of it. Only a ``clear`` minimum has a value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from scipy import stats

from sae.numerics.statistics import mean_interval
from sae.registry import UserError

SHALLOW = 0.05
"""The smallest depth of a clear minimum, however little the seeds differ."""

WELL_BELOW = 1 / 3
"""The largest value of a clear minimum, relative to the mean |cosine| of random directions."""

_LEVEL = 0.05
"""Significance level of the test against the target with the smallest mean."""

SuggestionVerdict = Literal["clear", "flat", "low end", "high end", "chance"]


@dataclass(frozen=True)
class Suggestion:
    """The minimum that a sweep shows."""

    verdict: SuggestionVerdict
    """Whether the minimum is clear, or why it is not."""
    l0: float | None
    """The suggested L0; None unless the minimum is clear."""
    low: float
    """Lower bound of the minimum, within the sweep."""
    high: float
    """Upper bound of the minimum, within the sweep."""
    depth: float
    """Relative rise of the mean |cosine| above its minimum, on the side where it rises less."""
    n_seeds: int
    """The smallest number of seeds at any target."""


def random_cosine(d_in: int) -> float:
    """The mean |cosine| of random directions, Gamma(d/2) / (sqrt(pi) Gamma((d + 1)/2)): about sqrt(2 / (pi d))."""
    return math.exp(math.lgamma(d_in / 2) - math.lgamma((d_in + 1) / 2)) / math.sqrt(math.pi)


def suggest(l0s: Sequence[int | float], cosines: Sequence[Sequence[float]], d_in: int | None = None) -> Suggestion:
    """The minimum of `cosines` over the targets `l0s`; each target has one value for each of at least two seeds.

    `d_in` is the number of dimensions of the decoder rows; without it, the minimum is not compared with chance.
    Values that are not finite are left out. Raises `UserError` if fewer than three targets have values, if one has a
    single value, or if targets are equal or not above 0.
    """
    finite = [(float(l0), [v for v in values if math.isfinite(v)]) for l0, values in zip(l0s, cosines, strict=True)]
    curve = sorted((l0, values) for l0, values in finite if values)
    if len(curve) < 3:
        raise UserError(f"targets: {len(curve)} with a value; give three at least, so that one lies on each side")
    if any(a == b for (a, _), (b, _) in pairwise(curve)) or curve[0][0] <= 0:
        raise UserError(f"targets = {[l0 for l0, _ in curve]}: two are equal or one is 0; give distinct L0s above 0")
    if min(len(values) for _, values in curve) < 2:
        raise UserError("train.seeds: a single seed, which shows no variation; give two at least, better three")
    chance = math.inf if d_in is None else random_cosine(d_in)
    return _suggestion([l0 for l0, _ in curve], [values for _, values in curve], chance)


def _suggestion(l0s: list[float], cosines: list[list[float]], chance: float) -> Suggestion:
    mean = [mean_interval(values).mean for values in cosines]
    least = int(np.argmin(mean))
    noise = _noise(cosines)
    above = [
        (m - mean[least]) / math.sqrt(1 / len(v) + 1 / len(cosines[least])) for m, v in zip(mean, cosines, strict=True)
    ]
    same = [i for i, rise in enumerate(above) if rise <= noise]
    first, last, end = same[0], same[-1], len(l0s) - 1
    low = l0s[0] if first == 0 else math.sqrt(l0s[first - 1] * l0s[first])
    high = l0s[end] if last == end else math.sqrt(l0s[last] * l0s[last + 1])
    rise = min(max(mean[: least + 1]), max(mean[least:])) - mean[least]
    depth = rise / mean[least] if mean[least] > 0 else math.inf
    verdict: SuggestionVerdict = "clear"
    if first == 0 or last == end:
        verdict = "flat" if first == 0 and last == end else "low end" if first == 0 else "high end"
    elif depth < SHALLOW:
        verdict = "flat"
    elif mean[least] > WELL_BELOW * chance:
        verdict = "chance"
    around = slice(first - 1, last + 2)
    l0 = _vertex(l0s[around], mean[around], low, high) if verdict == "clear" else None
    return Suggestion(verdict, l0, low, high, depth, min(len(values) for values in cosines))


def _noise(cosines: Sequence[Sequence[float]]) -> float:
    """The pooled standard deviation over seeds, times the quantile of t for its degrees of freedom."""
    freedom = sum(len(values) - 1 for values in cosines)
    within = math.fsum(float(np.var(values)) * len(values) for values in cosines)
    return float(stats.t.ppf(1 - _LEVEL, freedom)) * math.sqrt(within / freedom)


def _vertex(l0s: Sequence[float], mean: Sequence[float], low: float, high: float) -> float:
    """The vertex of the parabola of `mean` over log L0, clipped to the interval."""
    bend, slope, _ = np.polyfit(np.log(l0s), mean, 2).tolist()
    if bend <= 0:
        return math.sqrt(low * high)
    return min(max(math.exp(min(-slope / (2 * bend), 50.0)), low), high)
