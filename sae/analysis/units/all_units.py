"""All units for a feature: how many of them say it, and which have to go before it cannot be read any more.

The k-sparse curve (Gurnee et al. 2023, 'Finding neurons in a haystack'): the AUC on test rows of logistic regression on
the k units with the largest |difference of class means|, k = 1, 2, 4, ..., all. Where it `saturates` is the least k
within `tolerance` of the best. A feature of one neuron saturates at 1, one in superposition later. Beside it a count
that needs no probe, the participation ratio

    effective = (sum_j g_j^2)^2 / sum_j g_j^4,    g_j = |mu_1j - mu_0j| / sigma_j.

The ablation set: units are put at their mean over choose rows, those first that add most to a probe on all of them,
w_j (mu_1j - mu_0j) in standardised units. What the probe still says is `auc`; what a probe says that is fitted anew to
what is left is `refit`. The first falls where the probe looked (below .5 at last, when only weights against the feature
are left), the second only where the feature is gone. `n_needed` is the least k at which half of what the probe said
above chance is lost.

The controls are the same with k units at random, the mean and the interval over draws.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae.analysis.units.one_feature import Halves, check_both_classes, sample
from sae.analysis.units.resampling import judged
from sae.metrics.probing import Sample, array
from sae.numerics.binary_probes import logistic_model, mean_difference, one_thread, rank_auc, standardised
from sae.numerics.seeds import generator
from sae.numerics.statistics import Interval, of_draws


class Point(NamedTuple):
    """AUC of a probe on the `k` best units, and on k units at random."""

    k: int
    auc: Interval
    random: Interval


class UnitCurve(NamedTuple):
    points: list[Point]
    saturates: int
    effective: float


class Without(NamedTuple):
    """AUC of the probe on all units, with `k` of them at their mean: its own best, or as many at random; and of a
    probe fitted anew to what its best leave."""

    k: int
    auc: Interval
    refit: Interval
    random: Interval


class AblationSet(NamedTuple):
    """`units` are those to be ablated, the first first; `n_needed` None where no number of them is enough."""

    points: list[Without]
    units: Int[Tensor, " n_units"]
    n_needed: int | None


def k_sparse(
    units: Halves,
    feature: Halves,
    groups: Int[Tensor, " rows"] | None = None,
    tolerance: float = 0.01,
    draws: int = 5,
    most: int = 512,
    seed: int = 0,
) -> UnitCurve:
    """The curve of a feature (0/1 of each row) on units ``[rows, n_units]``; `most` bounds k, `groups` says which test
    rows belong together.

    Raises ``ValueError`` where a half lacks one of the two classes.
    """
    check_both_classes(feature)
    chosen, test = feature.choose.bool(), feature.test.bool()
    fit, scaled = sample(units, chosen, seed), Halves(*standardised(units.choose, units.test))
    apart = mean_difference(scaled.choose, chosen[:, None])[0].abs()
    ranking, draw = apart.argsort(descending=True, stable=True), generator("k_sparse", seed)
    points: list[Point] = []
    for k in doublings(min(len(ranking), most)):
        score = _fitted(fit, scaled, ranking[:k])
        random = [_fitted(fit, scaled, _drawn(len(ranking), k, draw).to(ranking.device)) for _ in range(draws)]
        points.append(
            Point(k, judged(score, test, 0.0, groups, seed=seed).auc, of_draws([_auc(s, test) for s in random]))
        )
    best = max(point.auc.value for point in points)
    square = apart.double().square()
    effective = float(square.sum().square() / square.square().sum())
    return UnitCurve(points, next(p.k for p in points if p.auc.value >= best - tolerance), effective)


def ablation_set(
    units: Halves,
    feature: Halves,
    groups: Int[Tensor, " rows"] | None = None,
    draws: int = 5,
    most: int | None = None,
    seed: int = 0,
) -> AblationSet:
    """What is left of a feature (0/1 of each row) with units ``[rows, n_units]`` at their mean.

    Raises ``ValueError`` where a half lacks one of the two classes.
    """
    check_both_classes(feature)
    chosen, test = feature.choose.bool(), feature.test.bool()
    fit, scaled = sample(units, chosen, seed), Halves(*standardised(units.choose, units.test))
    with one_thread():
        model = logistic_model().fit(array(scaled.choose)[fit.rows], fit.positive, fit.weight)
    weight = torch.from_numpy(model.coef_[0]).to(scaled.test)
    order = (weight * mean_difference(scaled.choose, chosen[:, None])[0]).argsort(descending=True, stable=True)
    n, draw = len(order), generator("ablation_set", seed)
    intact, points = _auc(scaled.test @ weight, test), list[Without]()
    needed: int | None = None
    for k in [0, *doublings(min(n, most or n))]:
        score = _without(scaled.test, weight, order[:k])
        random = [_without(scaled.test, weight, _drawn(n, k, draw).to(order.device)) for _ in range(draws)]
        rest = _fitted(fit, scaled, order[k:]) if k < n else torch.zeros_like(score)
        found, again = (judged(s, test, 0.0, groups, seed=seed).auc for s in (score, rest))
        points.append(Without(k, found, again, of_draws([_auc(s, test) for s in random])))
        if needed is None and k and found.value - 0.5 <= (intact - 0.5) / 2:
            needed = k
    return AblationSet(points, order, needed)


def doublings(n: int) -> list[int]:
    """1, 2, 4, ... and n."""
    return sorted({*(2**i for i in range(n.bit_length()) if 2**i <= n), n})


def _without(
    x: Float[Tensor, "rows n_units"], weight: Float[Tensor, " n_units"], gone: Int[Tensor, " k"]
) -> Float[Tensor, " rows"]:
    """What the probe says of standardised units, those that are gone at their mean, 0."""
    left = weight.clone()
    left[gone] = 0
    return x @ left


def _fitted(fit: Sample, scaled: Halves, kept: Int[Tensor, " k"]) -> Float[Tensor, " rows"]:
    return fit.log_odds(array(scaled.choose[:, kept]), array(scaled.test[:, kept]))


def _drawn(n: int, k: int, draw: torch.Generator) -> Int[Tensor, " k"]:
    return torch.randperm(n, generator=draw)[:k]


def _auc(score: Float[Tensor, " rows"], positive: Bool[Tensor, " rows"]) -> float:
    return float(rank_auc(score[:, None], positive[:, None]))
