"""Spread of a feature over units: how many units represent it, and how many must be ablated to remove it.

The k-sparse curve (Gurnee et al. 2023, 'Finding neurons in a haystack') is the test AUC of logistic regression on the k
units with the largest |difference of class means|, k = 1, 2, 4, ..., all. It `saturates` at the smallest k within
`tolerance` of the best AUC: 1 for a feature of a single neuron, more for one in superposition. A measure without a
probe is the participation ratio

    effective = (sum_j g_j^2)^2 / sum_j g_j^4,    g_j = |mu_1j - mu_0j| / sigma_j.

The ablation set: units are set to their means on the validation split, in the order of their contribution to a probe on
all units, w_j (mu_1j - mu_0j) in standardised units. `auc` is that of the same probe on the ablated units; `refit` is
the AUC of a new probe fitted to the remaining units. The first falls when the units that the probe uses are ablated
(finally below .5, when only weights against the feature remain), the second only when the feature itself is gone.
`n_needed` is the smallest k at which the probe loses half of its AUC above chance.

The controls use k random units: their mean and interval over draws.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae.analysis.units.one_feature import Halves, check_both_classes, sample
from sae.analysis.units.resampling import classifier_scores
from sae.metrics.probing import Sample, array
from sae.numerics.binary_probes import logistic_model, mean_difference, one_thread, rank_auc, standardised
from sae.numerics.seeds import generator
from sae.numerics.statistics import Interval, of_draws


class CurvePoint(NamedTuple):
    """Test AUC of probes on k units."""

    k: int
    """The number of units."""
    auc: Interval
    """On the k best units."""
    random: Interval
    """On k random units."""


class UnitCurve(NamedTuple):
    """The k-sparse curve of a feature."""

    points: list[CurvePoint]
    """The points, k ascending."""
    saturates: int
    """The smallest k within `tolerance` of the best AUC."""
    effective: float
    """The participation ratio of the units' class separations."""


class AblationPoint(NamedTuple):
    """Test AUC with k units set to their means."""

    k: int
    """The number of ablated units."""
    auc: Interval
    """The probe on all units, with its k largest contributions ablated."""
    refit: Interval
    """A new probe fitted to the remaining units."""
    random: Interval
    """The probe on all units, with k random units ablated."""


class AblationSet(NamedTuple):
    """The ablation curve of a feature."""

    points: list[AblationPoint]
    """The points, k ascending from 0."""
    units: Int[Tensor, " n_units"]
    """All units in the order of ablation."""
    n_needed: int | None
    """The smallest tested k that halves the probe's AUC above chance; None if no k does."""


def k_sparse(
    units: Halves,
    feature: Halves,
    groups: Int[Tensor, " rows"] | None = None,
    tolerance: float = 0.01,
    draws: int = 5,
    most: int = 512,
    seed: int = 0,
) -> UnitCurve:
    """The k-sparse curve of a feature (0 or 1 for each sample) on units ``[samples, n_units]``.

    `most` bounds k; test samples with the same number in `groups` are resampled together. Raises `UserError` if a split
    lacks one of the two classes.
    """
    check_both_classes(feature)
    chosen, test = feature.choose.bool(), feature.test.bool()
    fit, scaled = sample(units, chosen, seed), Halves(*standardised(units.choose, units.test))
    apart = mean_difference(scaled.choose, chosen[:, None])[0].abs()
    ranking, draw = apart.argsort(descending=True, stable=True), generator("k_sparse", seed)
    points: list[CurvePoint] = []
    for k in doublings(min(len(ranking), most)):
        score = _fitted(fit, scaled, ranking[:k])
        random = [_fitted(fit, scaled, _random_units(len(ranking), k, draw).to(ranking.device)) for _ in range(draws)]
        auc = classifier_scores(score, test, 0.0, groups, seed=seed).auc
        points.append(CurvePoint(k, auc, of_draws([_auc(s, test) for s in random])))
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
    """The AUC for a feature (0 or 1 for each sample) with units ``[samples, n_units]`` set to their means.

    Raises `UserError` if a split lacks one of the two classes.
    """
    check_both_classes(feature)
    chosen, test = feature.choose.bool(), feature.test.bool()
    fit, scaled = sample(units, chosen, seed), Halves(*standardised(units.choose, units.test))
    with one_thread():
        model = logistic_model().fit(array(scaled.choose)[fit.rows], fit.positive, fit.weight)
    weight = torch.from_numpy(model.coef_[0]).to(scaled.test)
    order = (weight * mean_difference(scaled.choose, chosen[:, None])[0]).argsort(descending=True, stable=True)
    n, draw = len(order), generator("ablation_set", seed)
    intact, points = _auc(scaled.test @ weight, test), list[AblationPoint]()
    needed: int | None = None
    for k in [0, *doublings(min(n, most or n))]:
        score = _without(scaled.test, weight, order[:k])
        random = [_without(scaled.test, weight, _random_units(n, k, draw).to(order.device)) for _ in range(draws)]
        rest = _fitted(fit, scaled, order[k:]) if k < n else torch.zeros_like(score)
        auc, refit = (classifier_scores(s, test, 0.0, groups, seed=seed).auc for s in (score, rest))
        points.append(AblationPoint(k, auc, refit, of_draws([_auc(s, test) for s in random])))
        if needed is None and k and auc.value - 0.5 <= (intact - 0.5) / 2:
            needed = k
    return AblationSet(points, order, needed)


def doublings(n: int) -> list[int]:
    """1, 2, 4, ... and n."""
    return sorted({*(2**i for i in range(n.bit_length()) if 2**i <= n), n})


def _without(
    x: Float[Tensor, "rows n_units"], weight: Float[Tensor, " n_units"], ablated: Int[Tensor, " k"]
) -> Float[Tensor, " rows"]:
    """The probe's scores on standardised units with the ablated ones at their mean, 0."""
    remaining = weight.clone()
    remaining[ablated] = 0
    return x @ remaining


def _fitted(fit: Sample, scaled: Halves, kept: Int[Tensor, " k"]) -> Float[Tensor, " rows"]:
    return fit.log_odds(array(scaled.choose[:, kept]), array(scaled.test[:, kept]))


def _random_units(n: int, k: int, draw: torch.Generator) -> Int[Tensor, " k"]:
    return torch.randperm(n, generator=draw)[:k]


def _auc(score: Float[Tensor, " rows"], positive: Bool[Tensor, " rows"]) -> float:
    return float(rank_auc(score[:, None], positive[:, None]))
