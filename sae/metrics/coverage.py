"""Whether known properties of rows have a latent that tells them, and what latents that can be trusted tell together.

A latent says yes where ``z_j > t max z_j``, the largest of the choose rows, for t in 0, .1, ..., .9. With F1 = 2 TP /
(2 TP + FP + FN) of a latent at a t for a property,

    coverage               mean over properties of the F1 of the latent and the t that are best on the choose rows
    coverage_one_t         the same with one t for all properties: that with the best mean on the choose rows
    coverage_chance        mean over properties of 2p / (1 + p), the F1 of always saying yes to what is so in a share p
                           of rows; a latent that says yes in a share q independently has 2pq / (p + q), which is less
    board_reconstruction   F1, over all rows and properties counted together, of saying yes where any latent does
                           that was right in at least .95 of the choose rows in which it said yes, at least 10 of them;
                           one t, the best on the choose rows

All are measured on the test rows. Karvonen et al. 2024 ('Measuring progress in dictionary learning for language model
interpretability with board game models') define coverage as the mean of the best F1 over latents and thresholds, and
their code has one t for all (`best_f1_average`); latents, t and F1 come from the same rows there, which lets a wide
dictionary choose its luck. Their board reconstruction does label on some games and test on others, as here, but takes
the t that is best on the latter. Their squares are the properties; here those are the real labels where there are any
(a vector of 0/1 is one property, class ids are one a class), else 'feature g is active' for at most `n_properties`
represented features, evenly over the ranks of their frequencies. A property needs `min_count` rows of either class in
both halves; without any all is NaN. What raw neurons cover is told by the baseline ``neurons``.
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
    """Needs ``labels`` or ``codes``."""

    kind: Literal["coverage"] = "coverage"
    n_properties: int = Field(64, gt=0)
    min_count: int = Field(10, gt=0)
    trusted: float = Field(0.95, gt=0, le=1)
    least_firings: int = Field(10, gt=0)

    needs_any: ClassVar[frozenset[str]] = frozenset({"codes", "labels"})

    def score(self, case: Case) -> Scores:
        properties = properties_of(case.evidence, self.n_properties, self.min_count)
        if not len(properties):
            return Scores(dict.fromkeys(COVERAGE_SCORES, math.nan))
        z, z_test = (case.codes_of(batch).float() for batch in (properties.choose, properties.test))
        largest = z.amax(0)
        # A latent that never fires on choose has no scale, and says nothing.
        choose = Said(z / largest.where(largest > 0, torch.inf), properties.on_choose)
        test = Said(z_test / largest.where(largest > 0, torch.inf), properties.on_test)
        counts = choose.counts()
        f1 = counts.f1
        best_f1, best = f1.max(1)
        own_t = best_f1.argmax(0)
        one_t = best_f1.mean(1).argmax().expand_as(own_t)
        each = torch.arange(len(properties), device=z.device)
        share = properties.on_test.double().mean(0)
        found = (
            test.f1_of(best[own_t, each], own_t),
            test.f1_of(best[one_t, each], one_t),
            2 * share / (1 + share),
        )
        sure = (counts.hits >= self.trusted * counts.said[..., None]) & (counts.said >= self.least_firings)[..., None]
        together = test.reconstruction(sure, choose.reconstruction(sure).argmax()[None])
        return Scores(dict(zip(COVERAGE_SCORES, [*map(mean, found), float(together)], strict=True)))


@dataclass(frozen=True)
class Counts:
    """On some rows, for each t and latent: how often it says yes, and how often rightly for each property."""

    hits: Float[Tensor, "n_t n_latents n_properties"]
    said: Float[Tensor, "n_t n_latents"]
    positives: Int[Tensor, " n_properties"]

    @property
    def f1(self) -> Float[Tensor, "n_t n_latents n_properties"]:
        return 2 * self.hits / (self.said[..., None] + self.positives)


@dataclass(frozen=True)
class Said:
    """Codes as shares of each latent's largest, and the properties of the same rows."""

    share: Float[Tensor, "rows n_latents"]
    positive: Bool[Tensor, "rows n_properties"]

    def pieces(self, rows: int) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(self.share.split(rows), self.positive.float().split(rows), strict=True)

    def counts(self) -> Counts:
        """Counts at all t in one pass over the codes that are not 0."""
        n_t, n, k = len(THRESHOLDS), self.share.shape[1], self.positive.shape[1]
        thresholds = torch.tensor(THRESHOLDS, device=self.share.device)
        hits = torch.zeros((n_t + 1) * n, k, device=self.share.device)
        said = torch.zeros((n_t + 1) * n, device=self.share.device)
        for share, positive in self.pieces(_ROWS_AT_ONCE):
            row, latent = (share > 0).nonzero(as_tuple=True)
            passed = torch.bucketize(share[row, latent], thresholds)  # how many t are below
            place = passed * n + latent
            hits.index_add_(0, place, positive[row])
            said += place.bincount(minlength=len(said))
        hits, said = (t.unflatten(0, (n_t + 1, n)).flip(0).cumsum(0).flip(0)[1:] for t in (hits, said))
        return Counts(hits, said, self.positive.sum(0))

    def f1_of(self, latent: Int[Tensor, " n_properties"], t: Int[Tensor, " n_properties"]) -> Float[Tensor, " n"]:
        """The F1 of one latent at one t for each property."""
        yes = self.share[:, latent] > torch.tensor(THRESHOLDS, device=self.share.device)[t]
        return 2 * (yes & self.positive).sum(0).double() / (yes.sum(0) + self.positive.sum(0)).clamp_min(1)

    def reconstruction(
        self, sure: Bool[Tensor, "n_t n_latents n_properties"], at: Int[Tensor, " n"] | None = None
    ) -> Float[Tensor, " n"]:
        """The F1, at each t or at some of them, of saying yes where any latent does that is sure of the property."""
        found: list[float] = []
        for i in range(len(THRESHOLDS)) if at is None else at.tolist():
            some = sure[i].any(1)
            trusted = sure[i, some].float()
            hits = said = 0
            for share, positive in self.pieces(_ROWS_AT_ONCE):
                yes = (share[:, some] > THRESHOLDS[i]).float() @ trusted > 0
                hits, said = hits + int((yes & (positive > 0)).sum()), said + int(yes.sum())
            found.append(2 * hits / (said + int(self.positive.sum())))
        return torch.tensor(found, dtype=torch.float64)
