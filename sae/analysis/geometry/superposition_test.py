"""A statistical test for superposition from activations alone: are there more features than dimensions?

    H0    at most d features, d the rank of the activations: :mod:`sae.analysis.geometry.few_directions`
    T     1 - cost(width m) / cost(width d),    m = ratio d > d,    on held-out rows
    p     (1 + #{T_b >= T}) / (n_draws + 1)    over redraws of the activations under H0, fitted in the same way

The cost is that of :mod:`sae.numerics.concave_coding`, in whitened activations: reconstruction plus a penalty that
counts active latents. L1 in its place makes the test weaker: the more directions there are, the shorter is the way to
any point, so that a wide dictionary also gains on values that lie on no line. The activations are partly whitened
(:func:`whitened`): the question does not depend on a linear map of them, but noise must not be amplified at will. T and
p are the same for rotated activations, up to rounding.

Codes are signed, so that H0 includes features of either sign: an antipodal pair of features is one of them, and no
evidence against it.

The test rejects H0, not more. It may also reject where a feature is no direction (a circle, a nonlinear code), where
rows are normalised, and where the magnitudes of features that are active together depend on one another, as these need
more than d directions as well. It cannot reject where features are always active together (they are one), or so dense
that no direction is sparse. Where narrow fits from different starts do not agree (`narrow_agreement`), the directions
under H0 may not be those of the features even if it holds, and it is rejected about twice as often as the level says.
Rows are taken to be independent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sae.analysis.geometry.few_directions import FewDirections
from sae.numerics.concave_coding import ConcavePenalty, Overcomplete, Rounds, fit_directions
from sae.numerics.matching import one_to_one, unit
from sae.numerics.seeds import derive, generator
from sae.numerics.statistics import Interval, of_draws
from sae.registry import UserError

LEAST_SHARE = 0.3
"""Directions whose variance is below this share of the mean are hardly amplified further."""
RANK = 1e-9
"""Principal directions with a smaller share of the largest variance are no dimensions but rounding errors."""
LEAST_ROWS = 10
"""The fewest rows for each dimension."""
_NARROW, _AGAIN, _WIDE = Rounds(16, 8, 12), Rounds(0, 4, 12), Rounds(16, 8, 12)
"""Rounds of the narrow fits from random rows, of narrow fits that start at the best of them, and of wide fits."""
_TRIMMED = Rounds(0, 6, 8)
"""Rounds after directions have been removed from a wide fit."""


@dataclass(frozen=True)
class SuperpositionTest:
    """The result of the test."""

    p: float
    """The p-value of H0: at most as many features as dimensions."""
    advantage: float
    """T: the share of the held-out cost that the wide dictionary saves."""
    null: Interval
    """T under H0: mean and central 95% of the redraws."""
    gaussian: Interval
    """T of Gaussian rows of the same covariance, which is not H0; NaN without draws."""
    p_gaussian: float
    """The p-value against them, for comparison; NaN without draws."""
    n_dims: int
    """d: the rank of the activations, the width of the narrow dictionary."""
    n_wide: int
    """m: the width of the wide dictionary."""
    n_features: Interval
    """The smallest width whose held-out cost is within one standard error of the least, with its bootstrap interval
    over held-out rows; NaN if not asked for."""
    explained_narrow: float
    """The share of the held-out variance of the whitened activations that the narrow dictionary explains."""
    explained_wide: float
    """The same for the wide one."""
    narrow_agreement: float
    """The mean \\|cosine\\| between matched directions of the best narrow fit and those from other starts."""
    wide_agreement: float
    """The same between two wide fits."""
    share_active: float
    """The share of values along the narrow directions that count as active."""
    costs: dict[int, float]
    """The held-out cost by width, from which `n_features` is."""


class _Split(NamedTuple):
    """Whitened rows, the first half for fits."""

    train: Float[Tensor, "rows d"]
    test: Float[Tensor, "rows d"]

    @classmethod
    def of(cls, x: Float[Tensor, "rows d"]) -> _Split:
        return cls(x[: len(x) // 2], x[len(x) // 2 :])


class _Fits(NamedTuple):
    """A narrow and a wide dictionary of the same rows, and what the wide one saves."""

    narrow: Overcomplete
    wide: Overcomplete
    advantage: float


@torch.no_grad()
def superposition_test(
    x: Float[Tensor, "rows d_in"],
    *,
    n_draws: int = 39,
    n_gaussian: int = 0,
    ratio: float = 3.0,
    threshold: float = 0.8,
    concavity: float = 4.0,
    activity: Literal["joint", "independent"] = "joint",
    n_starts: int = 6,
    count: bool = False,
    seed: int = 0,
) -> SuperpositionTest:
    """Tests whether activations have at most as many features as dimensions.

    `n_draws` redraws under H0 allow p-values down to ``1 / (n_draws + 1)``; `n_gaussian` draws of Gaussian rows are
    only for comparison. The wide dictionary has `ratio` times as many directions as dimensions, and three more at
    least. `threshold`, in standard deviations of the whitened activations, is the least value that is coded; values
    above `concavity` times it all cost the same. `activity` ``joint`` keeps under H0 which latents are active together
    (``independent`` does not: more power, and features that are active together are evidence against it). With
    `count`, the number of features is estimated as well.

    Raises `UserError` for rows that are not finite, for fewer than ten rows for each dimension, and for settings out of
    range.
    """
    _check(x, n_draws, ratio, threshold, concavity)
    draw, penalty = generator("superposition", seed), ConcavePenalty(threshold, concavity)
    rows = whitened(x[torch.randperm(len(x), generator=draw)])
    d, half = rows.shape[1], len(rows) // 2
    if len(rows) < LEAST_ROWS * d:
        raise UserError(f"x: {len(rows)} rows of rank {d}; give at least {LEAST_ROWS * d}, better ten times that")
    n_wide = max(math.ceil(ratio * d), d + 3)
    starts = [_start(rows[:half], d, draw) for _ in range(n_starts)]
    narrow = [fit_directions(rows[:half], start, penalty, _NARROW) for start in starts]
    narrow.sort(key=lambda fit: float(fit.cost(rows[:half], penalty).mean()))
    extra = torch.randperm(half, generator=draw)[: n_wide - d]

    def fits(of: Tensor) -> _Fits:
        return _fits(_Split.of(of), narrow[0], extra, penalty)

    measured = fits(rows)
    hypothesis = FewDirections.of(rows, measured.narrow, penalty)
    null = [fits(hypothesis.redrawn(draw, activity == "independent")).advantage for _ in range(n_draws)]
    normal = [fits(torch.randn(rows.shape, generator=draw)).advantage for _ in range(n_gaussian)]
    split = _Split.of(rows)
    widths = _costs(split, measured.wide, d, penalty) if count else {}
    other = extra.flip(0) if len(extra) > 1 else extra
    again = _fits(split, narrow[min(1, n_starts - 1)], (other + half // 2) % half, penalty).wide
    return SuperpositionTest(
        p=_p(measured.advantage, null),
        advantage=measured.advantage,
        null=of_draws(null),
        gaussian=of_draws(normal),
        p_gaussian=_p(measured.advantage, normal) if normal else math.nan,
        n_dims=d,
        n_wide=n_wide,
        n_features=_elbow(widths, seed),
        explained_narrow=1 - measured.narrow.left(split.test, penalty),
        explained_wide=1 - measured.wide.left(split.test, penalty),
        narrow_agreement=_mean([_alike(narrow[0].W, fit.W) for fit in narrow[1:]]),
        wide_agreement=_alike(measured.wide.W, again.W),
        share_active=hypothesis.share_active,
        costs={width: float(cost.mean()) for width, cost in widths.items()},
    )


def whitened(x: Float[Tensor, "rows d_in"]) -> Float[Tensor, "rows d"]:
    """Rows in the coordinates of their principal directions, in the dimensions that they span, each divided by

        sqrt((variance + LEAST_SHARE * mean variance) / (1 + LEAST_SHARE))

    so that noise in directions of little variance is not amplified without limit. Rotated rows give the same, up to
    signs."""
    apart = x.double() - x.mean(0, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(apart.T @ apart / len(x))
    kept = values > RANK * values[-1].clamp_min(1e-30)
    variance = values[kept]
    scale = ((1 + LEAST_SHARE) / (variance + LEAST_SHARE * variance.mean())).sqrt()
    return (apart @ vectors[:, kept] * scale).float()


def _start(x: Float[Tensor, "rows d"], n: int, draw: torch.Generator) -> Overcomplete:
    """`n` rows, of those far from the middle, as directions; the offset is the geometric median, around which sparse
    features leave most rows."""
    b = x.mean(0)
    for _ in range(20):
        weight = 1 / ((x - b).norm(dim=1) + 1e-3)
        b = weight @ x / weight.sum()
    size = (x - b).norm(dim=1)
    far = (size > size.quantile(0.3) if len(x) < 2**24 else size > 0).nonzero()[:, 0]
    far = far if len(far) >= n else size.topk(n).indices
    return Overcomplete(unit((x - b)[far[torch.randperm(len(far), generator=draw)[:n]]]), b)


def _fits(split: _Split, start: Overcomplete, extra: Tensor, penalty: ConcavePenalty) -> _Fits:
    """A narrow dictionary from `start`, and a wide one from the narrow one and the `extra` training rows."""
    narrow = fit_directions(split.train, start, penalty, _AGAIN, replace=False)
    more = unit(split.train[extra] - start.b)
    wide = fit_directions(split.train, Overcomplete(torch.cat([narrow.W, more]), narrow.b), penalty, _WIDE)
    costs = [float(fit.cost(split.test, penalty).mean()) for fit in (narrow, wide)]
    return _Fits(narrow, wide, 1 - costs[1] / max(costs[0], 1e-30))


def _costs(split: _Split, wide: Overcomplete, d: int, penalty: ConcavePenalty) -> dict[int, Tensor]:
    """The cost of every held-out row by width, of dictionaries that keep the most used directions of a wider one."""
    steps = sorted({max(1, round(d * share)) for share in np.arange(0.25, len(wide.W) / d, 0.125)})
    costs: dict[int, Tensor] = {len(wide.W): wide.cost(split.test, penalty)}
    fit = wide
    for n in reversed([n for n in steps if n < len(wide.W)]):
        energy = fit.codes(split.train, penalty).square().sum(0)
        kept = energy.topk(n).indices
        fit = fit_directions(split.train, Overcomplete(fit.W[kept], fit.b), penalty, _TRIMMED, replace=False)
        costs[n] = fit.cost(split.test, penalty)
    return dict(sorted(costs.items()))


def _elbow(costs: dict[int, Tensor], seed: int, draws: int = 200) -> Interval:
    """The smallest width whose cost is within a standard error of the least (of their difference), and the interval of
    that width over rows drawn with replacement."""
    if not costs:
        return Interval(math.nan, math.nan, math.nan)
    widths = np.array(list(costs))
    table = torch.stack(list(costs.values())).double().numpy()
    n = table.shape[1]

    def smallest(rows: np.ndarray) -> float:
        mean = table[:, rows].mean(1)
        apart = table[:, rows] - table[int(mean.argmin()), rows]
        near = apart.mean(1) <= apart.std(1) / math.sqrt(n)
        return float(widths[near].min())

    rng = np.random.default_rng(derive("width", seed))
    drawn = [smallest(rng.integers(n, size=n)) for _ in range(draws)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(smallest(np.arange(n)), float(low), float(high))


def _alike(a: Float[Tensor, "n d"], b: Float[Tensor, "n d"]) -> float:
    """The mean |cosine| of matched directions."""
    cosine = (unit(a) @ unit(b).T).abs()
    partner = one_to_one(cosine)
    return float(cosine[torch.arange(len(a)), partner].mean())


def _p(value: float, null: Sequence[float]) -> float:
    return (1 + sum(other >= value for other in null)) / (len(null) + 1)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def _check(x: Tensor, n_draws: int, ratio: float, threshold: float, concavity: float) -> None:
    if x.ndim != 2 or not bool(x.isfinite().all()):
        raise UserError("x: not a matrix of finite values; give rows [rows, d_in] without NaN and infinities")
    if len(x) < 2 or float(x.double().var(0).sum()) == 0:
        raise UserError(f"x: {len(x)} rows that do not vary; give activations of different samples")
    limits = {"n_draws": (n_draws, 1), "ratio": (ratio, 1), "threshold": (threshold, 0), "concavity": (concavity, 1)}
    for name, (value, least) in limits.items():
        if value < least or (value == least and name != "n_draws"):
            raise UserError(f"{name} = {value:g}: give {'at least' if name == 'n_draws' else 'more than'} {least}")
