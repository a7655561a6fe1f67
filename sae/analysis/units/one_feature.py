"""One feature, and what says it best: a neuron, a latent, or a probe.

    neuron       the one coordinate with the best AUC on choose rows, in either direction
    latent       the one latent with the best AUC on choose rows, as it stands
    diff_means   x . (mu_1 - mu_0) (DiffMean of AxBench, Wu et al. 2025)
    logistic     L2 logistic regression (C = 1) on the standardised activations

The definitions are those of :mod:`sae.metrics.probing`, which scores dictionaries by means over many features; here
it is one feature, with intervals. Everything is chosen on choose rows, thresholds too (the best F1 there; even odds for
`logistic`), and measured on test rows: AUC and F1 with bootstrap intervals. The control of each reader is the same
reader chosen by permuted labels: .5 and about the feature's frequency, but by how much one draw of a direction may
differ from that, which the interval of the draws shows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae.analysis.units.resampling import Judged, judged
from sae.metrics._properties import Properties
from sae.metrics.probing import Config, Sample, array
from sae.numerics.binary_probes import best_threshold, f1_score, mean_difference, rank_auc, standardised
from sae.numerics.seeds import generator
from sae.numerics.statistics import of_draws
from sae.registry import UserError
from sae.source import Batch


class Halves(NamedTuple):
    """Something of the rows to choose on, and of those to score on."""

    choose: Tensor
    test: Tensor


class SelectedScore(NamedTuple):
    """A score of the test rows, its threshold, and the unit that it is, if it is one."""

    test: Float[Tensor, " rows"]
    threshold: float
    unit: int | None = None


class ReaderQuality(NamedTuple):
    """How well a reader tells the feature on test rows, and how well it does when chosen by permuted labels."""

    name: str
    unit: int | None
    judged: Judged
    shuffled: Judged


ReaderFit = Callable[[Bool[Tensor, " rows"]], SelectedScore]
"""From labels of the choose rows to a score of the test rows."""


def readers(
    neurons: Halves,
    latents: Halves | None,
    feature: Halves,
    groups: Int[Tensor, " rows"] | None = None,
    shuffles: int = 10,
    seed: int = 0,
) -> list[ReaderQuality]:
    """Every reader of a feature (0/1 of each row) from activations ``[rows, d]`` and codes ``[rows, n_latents]``.

    `groups` says which test rows belong together. Raises ``ValueError`` where a half lacks one of the two classes.
    """
    check_both_classes(feature)
    fits: dict[str, ReaderFit] = {"neuron": lambda y: single(neurons, y, signed=True)}
    if latents is not None:
        fits["latent"] = lambda y: single(latents, y, signed=False)
    fits |= {"diff_means": lambda y: _diff_means(neurons, y), "logistic": lambda y: logistic_score(neurons, y, seed)}
    chosen, test = feature.choose.bool(), feature.test.bool()
    draw = generator("readers", seed)
    orders = [torch.randperm(len(chosen), generator=draw).to(chosen.device) for _ in range(shuffles)]
    found: list[ReaderQuality] = []
    for name, fit in fits.items():
        score = fit(chosen)
        wrong = [fit(chosen[order]) for order in orders]
        shuffled = Judged(of_draws([_auc(s, test) for s in wrong]), of_draws([_f1(s, test) for s in wrong]))
        found.append(
            ReaderQuality(name, score.unit, judged(score.test, test, score.threshold, groups, seed=seed), shuffled)
        )
    return found


def check_both_classes(feature: Halves) -> None:
    """A ``ValueError`` where a half has one class only."""
    for name, half in zip(feature._fields, feature, strict=True):
        if not 0 < int(half.bool().sum()) < len(half):
            raise UserError(f"feature: it is the same in all {name} rows, which leaves nothing to tell")


def single(units: Halves, positive: Bool[Tensor, " rows"], signed: bool) -> SelectedScore:
    """The one unit with the best AUC on the choose rows; where it is `signed`, in either direction."""
    auc = rank_auc(units.choose, positive[:, None])[0]
    unit = int(((auc - 0.5).abs() if signed else auc).argmax())
    sign = -1 if signed and float(auc[unit]) < 0.5 else 1
    return SelectedScore(sign * units.test[:, unit], best_threshold(sign * units.choose[:, unit], positive), unit)


def _diff_means(units: Halves, positive: Bool[Tensor, " rows"]) -> SelectedScore:
    direction = mean_difference(units.choose, positive[:, None])[0]
    return SelectedScore(units.test @ direction, best_threshold(units.choose @ direction, positive))


def logistic_score(units: Halves, positive: Bool[Tensor, " rows"], seed: int) -> SelectedScore:
    """Log odds of a probe on all units, as the metric `probing` fits it: at most `max_rows`, classes weighted back."""
    x, x_test = (array(half) for half in standardised(units.choose, units.test))
    return SelectedScore(sample(units, positive, seed).log_odds(x, x_test), 0.0)


def sample(units: Halves, positive: Bool[Tensor, " rows"], seed: int) -> Sample:
    """The choose rows that a probe is fitted on."""
    unknown = torch.zeros(len(units.test), 1, dtype=torch.bool, device=units.test.device)
    tasks = Properties(Batch(units.choose), Batch(units.test), positive[:, None], unknown)
    return Sample.of(Config.model_validate({"seed": seed}), tasks, 0)


def _auc(score: SelectedScore, positive: Tensor) -> float:
    return float(rank_auc(score.test[:, None], positive[:, None]))


def _f1(score: SelectedScore, positive: Tensor) -> float:
    return f1_score(score.test >= score.threshold, positive)
