"""Detection of one feature by a neuron, a latent, or a probe.

    neuron       the coordinate with the best AUC on the validation split, with either sign
    latent       the latent with the best AUC on the validation split
    diff_means   x . (mu_1 - mu_0) (DiffMean of AxBench, Wu et al. 2025)
    logistic     L2 logistic regression (C = 1) on the standardised activations

The definitions are those of :mod:`sae.metrics.probing`, which averages over many features; here they apply to one
feature, with intervals. Units, probes and thresholds (that of the best F1; even odds for `logistic`) are chosen on the
validation split, and AUC and F1 are measured on the test split, with bootstrap intervals. The control of each reader is
the same procedure with permuted labels: its AUC is .5 and its F1 near the feature's frequency on average, and the
interval over permutations shows how much a single one varies.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae.analysis.units.resampling import ClassifierScores, classifier_scores
from sae.metrics._properties import Properties
from sae.metrics.probing import Config, Sample, array
from sae.numerics.binary_probes import best_threshold, f1_score, mean_difference, rank_auc, standardised
from sae.numerics.seeds import generator
from sae.numerics.statistics import of_draws
from sae.registry import UserError
from sae.source import Batch


class Halves(NamedTuple):
    """A quantity on the validation split and on the test split."""

    choose: Tensor
    """On the validation split."""
    test: Tensor
    """On the test split."""


class SelectedScore(NamedTuple):
    """The output of a fitted reader on the test split."""

    test: Float[Tensor, " rows"]
    """The score of each sample."""
    threshold: float
    """The feature is predicted from this score on."""
    unit: int | None = None
    """The unit whose activation is the score, if it is a single one."""


class ReaderQuality(NamedTuple):
    """How well a reader detects the feature on the test split."""

    name: str
    """The name of the reader."""
    unit: int | None
    """The selected unit; None for probes."""
    scores: ClassifierScores
    """AUC and F1."""
    shuffled: ClassifierScores
    """AUC and F1 of the same reader, selected with permuted labels."""


ReaderFit = Callable[[Bool[Tensor, " rows"]], SelectedScore]
"""A function from labels of the validation split to a score on the test split."""


def readers(
    neurons: Halves,
    latents: Halves | None,
    feature: Halves,
    groups: Int[Tensor, " rows"] | None = None,
    shuffles: int = 10,
    seed: int = 0,
) -> list[ReaderQuality]:
    """Every reader of a feature (0 or 1 for each sample) from activations ``[samples, d]`` and codes
    ``[samples, n_latents]``.

    Test samples with the same number in `groups` are resampled together. Raises `UserError` if a split lacks one of the
    two classes.
    """
    check_both_classes(feature)
    fits: dict[str, ReaderFit] = {"neuron": lambda y: single(neurons, y, signed=True)}
    if latents is not None:
        fits["latent"] = lambda y: single(latents, y, signed=False)
    fits |= {"diff_means": lambda y: _diff_means(neurons, y), "logistic": lambda y: logistic_score(neurons, y, seed)}
    chosen, test = feature.choose.bool(), feature.test.bool()
    draw = generator("readers", seed)
    orders = [torch.randperm(len(chosen), generator=draw).to(chosen.device) for _ in range(shuffles)]
    qualities: list[ReaderQuality] = []
    for name, fit in fits.items():
        score = fit(chosen)
        permuted = [fit(chosen[order]) for order in orders]
        shuffled = ClassifierScores(
            of_draws([_auc(s, test) for s in permuted]), of_draws([_f1(s, test) for s in permuted])
        )
        scores = classifier_scores(score.test, test, score.threshold, groups, seed=seed)
        qualities.append(ReaderQuality(name, score.unit, scores, shuffled))
    return qualities


def check_both_classes(feature: Halves) -> None:
    """Raises `UserError` if a split has one class only."""
    for name, half in zip(("validation", "test"), feature, strict=True):
        if not 0 < int(half.bool().sum()) < len(half):
            raise UserError(f"feature: has the same value in all {name} samples; give samples of both classes")


def single(units: Halves, positive: Bool[Tensor, " rows"], signed: bool) -> SelectedScore:
    """The unit with the best AUC on the validation split, with either sign if `signed`."""
    auc = rank_auc(units.choose, positive[:, None])[0]
    unit = int(((auc - 0.5).abs() if signed else auc).argmax())
    sign = -1 if signed and float(auc[unit]) < 0.5 else 1
    return SelectedScore(sign * units.test[:, unit], best_threshold(sign * units.choose[:, unit], positive), unit)


def _diff_means(units: Halves, positive: Bool[Tensor, " rows"]) -> SelectedScore:
    direction = mean_difference(units.choose, positive[:, None])[0]
    return SelectedScore(units.test @ direction, best_threshold(units.choose @ direction, positive))


def logistic_score(units: Halves, positive: Bool[Tensor, " rows"], seed: int) -> SelectedScore:
    """Log odds of a probe on all units, fitted as in the metric `probing`: on at most its `max_rows` samples, with
    classes reweighted to their frequencies."""
    x, x_test = (array(half) for half in standardised(units.choose, units.test))
    return SelectedScore(sample(units, positive, seed).log_odds(x, x_test), 0.0)


def sample(units: Halves, positive: Bool[Tensor, " rows"], seed: int) -> Sample:
    """The validation samples that a probe is fitted on."""
    unknown = torch.zeros(len(units.test), 1, dtype=torch.bool, device=units.test.device)
    tasks = Properties(Batch(units.choose), Batch(units.test), positive[:, None], unknown)
    return Sample.of(Config.model_validate({"seed": seed}), tasks, 0)


def _auc(score: SelectedScore, positive: Tensor) -> float:
    return float(rank_auc(score.test[:, None], positive[:, None]))


def _f1(score: SelectedScore, positive: Tensor) -> float:
    return f1_score(score.test >= score.threshold, positive)
