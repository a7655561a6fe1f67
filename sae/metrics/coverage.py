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
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from sae.metric import Case, MetricConfig, Scores, mean
from sae.metrics._properties import properties_of

THRESHOLDS = tuple(t / 10 for t in range(10))
COVERAGE_SCORES = ("coverage", "coverage_one_t", "coverage_chance", "board_reconstruction")
_ROWS_AT_ONCE = 1024


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
        z, z_test = (case.codes_of(batch).float() for batch in (properties.choose, properties.test))
        largest = z.amax(0)
        # A latent that never fires on the validation samples has no scale, and predicts nothing.
        choose = ScaledCodes(z / largest.where(largest > 0, torch.inf), properties.on_choose)
        test = ScaledCodes(z_test / largest.where(largest > 0, torch.inf), properties.on_test)
        counts = choose.counts()
        f1 = counts.f1
        best_f1, best = f1.max(1)
        best_t = best_f1.argmax(0)
        one_t = best_f1.mean(1).argmax().expand_as(best_t)
        each = torch.arange(len(properties), device=z.device)
        share = properties.on_test.double().mean(0)
        values = (
            test.f1_of(best[best_t, each], best_t),
            test.f1_of(best[one_t, each], one_t),
            2 * share / (1 + share),
        )
        precise = counts.hits >= self.trusted * counts.predicted[..., None]
        trusted = precise & (counts.predicted >= self.least_firings)[..., None]
        together = test.reconstruction(trusted, choose.reconstruction(trusted).argmax()[None])
        return Scores(dict(zip(COVERAGE_SCORES, [*map(mean, values), float(together)], strict=True)))


@dataclass(frozen=True)
class Counts:
    """Counts of the predictions of every latent at every t."""

    hits: Float[Tensor, "n_t n_latents n_properties"]
    """Samples in which the latent predicts and the property holds."""
    predicted: Float[Tensor, "n_t n_latents"]
    """Samples in which the latent predicts."""
    positives: Int[Tensor, " n_properties"]
    """Samples in which the property holds."""

    @property
    def f1(self) -> Float[Tensor, "n_t n_latents n_properties"]:
        return 2 * self.hits / (self.predicted[..., None] + self.positives)


@dataclass(frozen=True)
class ScaledCodes:
    """Codes divided by the largest code of each latent, with the properties of the same samples."""

    share: Float[Tensor, "rows n_latents"]
    """Codes as shares of the largest code of each latent on the validation samples."""
    positive: Bool[Tensor, "rows n_properties"]
    """Whether each sample has each property."""

    def pieces(self, rows: int) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(self.share.split(rows), self.positive.float().split(rows), strict=True)

    def counts(self) -> Counts:
        """Counts at all t in one pass over the non-zero codes."""
        n_t, n, k = len(THRESHOLDS), self.share.shape[1], self.positive.shape[1]
        thresholds = torch.tensor(THRESHOLDS, device=self.share.device)
        hits = torch.zeros((n_t + 1) * n, k, device=self.share.device)
        predicted = torch.zeros((n_t + 1) * n, device=self.share.device)
        for share, positive in self.pieces(_ROWS_AT_ONCE):
            row, latent = (share > 0).nonzero(as_tuple=True)
            passed = torch.bucketize(share[row, latent], thresholds)  # how many t are below
            place = passed * n + latent
            hits.index_add_(0, place, positive[row])
            predicted += place.bincount(minlength=len(predicted))
        hits, predicted = (t.unflatten(0, (n_t + 1, n)).flip(0).cumsum(0).flip(0)[1:] for t in (hits, predicted))
        return Counts(hits, predicted, self.positive.sum(0))

    def f1_of(self, latent: Int[Tensor, " n_properties"], t: Int[Tensor, " n_properties"]) -> Float[Tensor, " n"]:
        """The F1 of one latent at one t (an index into `THRESHOLDS`) for each property."""
        predicted = self.share[:, latent] > torch.tensor(THRESHOLDS, device=self.share.device)[t]
        total = predicted.sum(0) + self.positive.sum(0)
        return 2 * (predicted & self.positive).sum(0).double() / total.clamp_min(1)

    def reconstruction(
        self, trusted: Bool[Tensor, "n_t n_latents n_properties"], at: Int[Tensor, " n"] | None = None
    ) -> Float[Tensor, " n"]:
        """The F1 of predicting a property where any latent trusted with it does, at each t or at those in `at`."""
        values: list[float] = []
        for i in range(len(THRESHOLDS)) if at is None else at.tolist():
            used = trusted[i].any(1)
            of_property = trusted[i, used].float()
            hits = n_predicted = 0
            for share, positive in self.pieces(_ROWS_AT_ONCE):
                predicted = (share[:, used] > THRESHOLDS[i]).float() @ of_property > 0
                hits += int((predicted & (positive > 0)).sum())
                n_predicted += int(predicted.sum())
            values.append(2 * hits / (n_predicted + int(self.positive.sum())))
        return torch.tensor(values, dtype=torch.float64)
