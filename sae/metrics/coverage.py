"""Is there a latent for each known property of the samples, and what do high-precision latents predict together?

A latent predicts a property in the samples with z_j > t max z_j, for t in 0, .1, ..., .9; the maximum is taken over the
validation samples. F1 = 2 TP / (2 TP + FP + FN) rates one latent at one t for one property. On the test samples:

    coverage               mean over properties of the F1 of the latent and t that are best on the validation samples
    coverage_one_t         the same with one t for all properties: the one with the best mean F1 on the validation
                           samples
    coverage_chance        mean over properties of 2p / (1 + p), with p the share of samples that have the property:
                           the F1 of always predicting it. An independent prediction at rate q has 2pq / (p + q),
                           which is lower
    board_reconstruction   F1, over all samples and properties counted together, of predicting a property where any of
                           its high-precision latents does. These have a precision of at least `trusted` (.95) over at
                           least `least_firings` (10) predictions on the validation samples; one t, the best there

All lie in [0, 1]; 1 is best. Read coverage next to coverage_chance, and next to the baseline `neurons`, which scores
single coordinates of the activations.

Properties are the labels where there are any (a 0/1 label is one property, a label with classes one per class), else
'feature g is active' for at most `n_properties` represented features, spread evenly over the ranks of their
frequencies. A property needs `min_count` samples of either class in both splits; all scores are NaN if none qualifies.

Published variant: Karvonen et al. 2024, 'Measuring progress in dictionary learning for language model interpretability
with board game models'. The paper defines coverage as the mean of the best F1 over latents and thresholds; its code
(`best_f1_average`) uses one t for all, as coverage_one_t does. It selects latent and t and measures F1 on the same
samples, which favours wide dictionaries by chance. Its board reconstruction labels latents on some games and tests on
others, as here, but takes the t that is best on the latter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from sae.metric import Case, MetricConfig, Scores, mean
from sae.metrics._properties import properties_of
from sae.numerics.active_codes import ActiveCodes, SplitCodes

THRESHOLDS = tuple(t / 10 for t in range(10))
COVERAGE_SCORES = ("coverage", "coverage_one_t", "coverage_chance", "board_reconstruction")
_CELLS = 2**22
"""Cells of a table of latents, t and properties, or of codes and properties, that are calculated at once."""


class Config(MetricConfig):
    """Settings of the coverage scores; needs ``labels`` or ``codes``."""

    kind: Literal["coverage"] = "coverage"
    n_properties: int = Field(64, gt=0)
    """Largest number of features whose activity serves as a property where there are no labels."""
    min_count: int = Field(10, gt=0)
    """Smallest number of samples of either class that a property needs in both splits."""
    trusted: float = Field(0.95, gt=0, le=1)
    """Smallest precision of a latent that takes part in the board reconstruction."""
    least_firings: int = Field(10, gt=0)
    """Smallest number of predictions of a latent that takes part in the board reconstruction."""

    needs_any: ClassVar[frozenset[str]] = frozenset({"codes", "labels"})

    def score(self, case: Case) -> Scores:
        properties = properties_of(case.evidence, self.n_properties, self.min_count)
        if not len(properties):
            return Scores(dict.fromkeys(COVERAGE_SCORES, math.nan))
        choose, test = case.codes_of(properties.choose), case.codes_of(properties.test)
        found = Best.of(choose, properties.on_choose, self.trusted, self.least_firings)
        best_t = found.f1.argmax(0)
        one_t = found.f1.mean(1).argmax().expand_as(best_t)
        each = torch.arange(len(properties), device=best_t.device)
        share = properties.on_test.double().mean(0)
        values = (
            _f1_of(test, found, properties.on_test, found.latent[best_t, each], best_t),
            _f1_of(test, found, properties.on_test, found.latent[one_t, each], one_t),
            2 * share / (1 + share),
        )
        best = int(board_f1(choose, found, properties.on_choose, range(len(THRESHOLDS))).argmax())
        together = board_f1(test, found, properties.on_test, [best])
        return Scores(dict(zip(COVERAGE_SCORES, [*map(mean, values), float(together)], strict=True)))


@dataclass(frozen=True)
class Best:
    """The latents that predict properties on the validation samples, at every t."""

    largest: Float[Tensor, " n_latents"]
    """The largest code of each latent; infinite for one that never fires, which has no scale and predicts nothing."""
    f1: Float[Tensor, "n_t n_properties"]
    """The best F1 of any latent."""
    latent: Int[Tensor, "n_t n_properties"]
    """That latent."""
    trusted: Int[Tensor, "n 3"]
    """Each t, latent and property for which the latent has a high precision."""

    @classmethod
    def of(cls, z: SplitCodes, positive: Bool[Tensor, "rows n_properties"], trusted: float, least: int) -> Best:
        """The latents by counts of a pass over the non-zero codes."""
        n_t, k = len(THRESHOLDS), positive.shape[1]
        f1 = torch.full((n_t, k), -1.0, device=positive.device)
        latent = torch.zeros(n_t, k, dtype=torch.int64, device=positive.device)
        largest, precise = torch.zeros(z.n_latents, device=positive.device), list[Tensor]()
        for latents, part in z.parts(max(1, _CELLS // ((n_t + 1) * k))):
            counts, scale = Counts.of(part, positive)
            largest[latents] = scale
            best = counts.f1.max(1)
            latent = torch.where(best.values > f1, best.indices + latents.start, latent)
            f1 = torch.maximum(f1, best.values)
            sure = (counts.hits >= trusted * counts.predicted[..., None]) & (counts.predicted >= least)[..., None]
            precise.append(sure.nonzero() + torch.tensor([0, latents.start, 0], device=sure.device))
        return cls(largest, f1, latent, torch.cat(precise))


@dataclass(frozen=True)
class Counts:
    """Counts of the predictions of some latents at every t."""

    hits: Float[Tensor, "n_t n_latents n_properties"]
    """Samples in which the latent predicts and the property holds."""
    predicted: Float[Tensor, "n_t n_latents"]
    """Samples in which the latent predicts."""
    positives: Int[Tensor, " n_properties"]
    """Samples in which the property holds."""

    @classmethod
    def of(
        cls, z: ActiveCodes, positive: Bool[Tensor, "rows n_properties"]
    ) -> tuple[Counts, Float[Tensor, " n_latents"]]:
        """The counts, and the largest code of each latent (infinite without a positive one)."""
        n_t, n, k = len(THRESHOLDS), z.n_latents, positive.shape[1]
        thresholds = torch.tensor(THRESHOLDS, device=positive.device)
        value, latent = z.value.float(), z.latent
        largest = value.new_zeros(n).scatter_reduce_(0, latent, value, "amax")
        largest = largest.where(largest > 0, torch.inf)
        hits = torch.zeros((n_t + 1) * n, k, device=positive.device)
        share = value / largest[latent]
        fires = (share > 0).nonzero()[:, 0]
        place = torch.bucketize(share[fires], thresholds) * n + latent[fires]  # how many t are below
        for at, row in zip(*(t.split(max(1, _CELLS // k)) for t in (place, z.row[fires])), strict=True):
            hits.index_add_(0, at, positive[row.long()].float())
        predicted = place.bincount(minlength=len(hits)).float()
        hits, predicted = (t.unflatten(0, (n_t + 1, n)).flip(0).cumsum(0).flip(0)[1:] for t in (hits, predicted))
        return cls(hits, predicted, positive.sum(0)), largest

    @property
    def f1(self) -> Float[Tensor, "n_t n_latents n_properties"]:
        return 2 * self.hits / (self.predicted[..., None] + self.positives)


def _f1_of(
    z: SplitCodes,
    found: Best,
    positive: Bool[Tensor, "rows n_properties"],
    latent: Int[Tensor, " n_properties"],
    t: Int[Tensor, " n_properties"],
) -> Float[Tensor, " n_properties"]:
    """The F1 of one latent at one t (an index into `THRESHOLDS`) for each property."""
    codes, thresholds = z.at(latent), torch.tensor(THRESHOLDS, device=t.device)[t]
    share = codes.value.float() / found.largest[latent].repeat_interleave(codes.count)
    fires = codes.where(share > thresholds.repeat_interleave(codes.count))
    hits = torch.zeros(len(t), dtype=torch.int64, device=t.device)
    of_property = fires.latent
    hits.index_add_(0, of_property, positive[fires.row.long(), of_property].long())
    total = fires.count + positive.sum(0)
    return 2 * hits.double() / total.clamp_min(1)


def board_f1(
    z: SplitCodes, found: Best, positive: Bool[Tensor, "rows n_properties"], at: Sequence[int]
) -> Float[Tensor, " n"]:
    """The F1 of predicting a property where any latent trusted with it does, at each t of `at` (indices)."""
    every = []
    for i in at:
        trusted = found.trusted[found.trusted[:, 0] == i]
        used, place = trusted[:, 1].unique(return_inverse=True)
        of_property = torch.zeros(len(used), positive.shape[1], device=positive.device)
        of_property[place, trusted[:, 2]] = 1
        every.append((i, used, of_property))
    hits, predictions = ([0] * len(every) for _ in range(2))
    for rows, codes in z.blocks():
        for n, (i, used, of_property) in enumerate(every):
            fires = (codes[:, used].float() / found.largest[used] > THRESHOLDS[i]).float()
            predicted = torch.sparse.mm(fires.to_sparse(), of_property) > 0
            hits[n] += int((predicted & positive[rows]).sum())
            predictions[n] += int(predicted.sum())
    n_positive = int(positive.sum())
    return torch.tensor([2 * h / (p + n_positive) for h, p in zip(hits, predictions, strict=True)], dtype=torch.float64)
