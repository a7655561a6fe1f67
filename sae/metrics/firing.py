"""Does a latent fire in the same samples as its feature?

For a feature and a latent let P be the test samples in which the feature is active (code > 0) and A those in which the
latent fires:

    precision = |A & P| / |A|,    recall = |A & P| / |P|,    f1 = 2 |A & P| / (|A| + |P|)

    precision, recall, f1       means over represented features, each paired with the latent that the one-to-one
                                assignment of the family `recovery` gives it. A latent fires where its contribution
                                ||z_j W_dec[j]|| is above 0. A feature counts 0 if it has no partner or its partner
                                never fires
    precision_chosen,           the same pairs, but a latent fires where its contribution is above `threshold`
    recall_chosen, f1_chosen
    threshold                   one number for the whole dictionary, in units of the activations: out of 0 and
                                quantiles of the contributions, the one with the highest mean f1 on the validation
                                samples
    f1_macro                    mean over latents of the f1 with the feature of largest |cos|, many latents to one
                                feature. A latent fires where z != 0; its f1 is 0 where undefined
    f1_decile_1 ... _10         mean f1 by tenths of the features, from the rarest to the most frequent; left out
                                where no probabilities are known

All but `threshold` lie in [0, 1]; 1 is best. Chance: for a feature of probability p, a latent that fires independently
with probability q has precision p, recall q and f1 2pq / (p + q).

L1 leaves many tiny non-zero codes, which ruin precision at threshold 0; `f1_chosen` shows how much of the loss they
cause. Contributions are thresholded rather than codes because the scale of a latent is a convention.

Published variant: `f1_macro` is the F1 of SAELens (SynthSAEBench). Dead latents lower it, and several copies of a
feature's latent can all score high. Do not compare it with `f1`.

A feature that is active in no test sample has no recall and is left out of the means over features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from sae.metric import Case, MetricConfig, Scores, decile_scores
from sae.numerics.matching import Matching

_ROWS_AT_ONCE = 4096
_NAMES = ("precision", "recall", "f1", "precision_chosen", "recall_chosen", "f1_chosen", "threshold")


class Config(MetricConfig):
    """Settings of the firing scores; needs ``truth`` and ``codes``.

    Vectors, ``[n_features]``: `f1` and `f1_chosen`, NaN where undefined.
    """

    kind: Literal["firing"] = "firing"
    n_thresholds: int = Field(64, gt=0)
    """Number of quantiles of the contributions that are tried as the threshold, in addition to 0."""

    needs: ClassVar[frozenset[str]] = frozenset({"truth", "codes"})

    def score(self, case: Case) -> Scores:
        matching, true_codes = case.matching, case.evidence.test.codes
        assert true_codes is not None
        macro = {"f1_macro": f1_macro(matching, case, true_codes)}
        threshold = self.choose(case)
        grid = torch.stack([torch.zeros_like(threshold), threshold])
        test = Agreement.at(grid, Contributions.of(case, "test"))
        means = torch.stack([test.precision, test.recall, test.f1], dim=1).double().nanmean(-1)
        scalars = dict(zip(_NAMES, [*means.flatten().tolist(), float(threshold)], strict=True)) | macro
        truth = case.evidence.truth
        assert truth is not None
        scalars |= decile_scores("f1", test.f1[0], truth.probability[matching.feature])
        vectors = {
            name: torch.full((true_codes.shape[1],), torch.nan, device=grid.device) for name in ("f1", "f1_chosen")
        }
        for vector, f1 in zip(vectors.values(), test.f1, strict=True):
            vector[matching.feature] = f1
        return Scores(scalars, vectors)

    def choose(self, case: Case) -> Float[Tensor, ""]:
        """The threshold with the highest mean f1 on the validation samples; the smallest if several tie."""
        found = Contributions.of(case, "choose")
        fired = found.strength.sort().values
        if len(fired) == 0:
            return fired.new_zeros(())
        quantiles = torch.arange(self.n_thresholds, device=fired.device) * len(fired) // self.n_thresholds
        grid = torch.cat([fired.new_zeros(1), fired[quantiles]])
        return grid[Agreement.at(grid, found).f1.nanmean(-1).nan_to_num().argmax()]


@dataclass(frozen=True)
class Contributions:
    """Contributions above 0 of the features' latents, one entry each."""

    feature: Int[Tensor, " entries"]
    """The number of the feature among the represented ones."""
    strength: Float[Tensor, " entries"]
    """The contribution of its latent."""
    active: Bool[Tensor, " entries"]
    """Whether the feature is active in the sample."""
    positives: Int[Tensor, " n_represented"]
    """The number of samples in which each feature is active."""

    @classmethod
    def of(cls, case: Case, half: Literal["choose", "test"]) -> Contributions:
        """The contributions in the samples of a split; features without a latent have none."""
        evidence, matching = case.evidence, case.matching
        batch, codes = (evidence.choose, case.choose) if half == "choose" else (evidence.test, case.test)
        assert batch.codes is not None
        has = (matching.latent >= 0).nonzero()[:, 0]
        z = codes.at(matching.latent[has])
        strength = z.value.abs() * case.dictionary.W_dec.norm(dim=-1)[matching.latent[has]].repeat_interleave(z.count)
        fires = strength > 0
        feature = has.repeat_interleave(z.count)[fires]
        active = batch.codes[z.row[fires].long(), matching.feature[feature]] > 0
        pieces = batch.codes.split(_ROWS_AT_ONCE)
        positives = torch.stack([(piece > 0).sum(0) for piece in pieces]).sum(0)[matching.feature]
        return cls(feature, strength[fires], active, positives)


@dataclass(frozen=True)
class Agreement:
    """Counts of samples for each threshold and feature, with the scores that follow from them."""

    hits: Int[Tensor, "n_thresholds n_represented"]
    """``|A & P|``, samples in which the latent fires and the feature is active."""
    fires: Int[Tensor, "n_thresholds n_represented"]
    """``|A|``, samples in which the latent fires."""
    positives: Int[Tensor, " n_represented"]
    """``|P|``, samples in which the feature is active."""

    @classmethod
    def at(cls, thresholds: Float[Tensor, " n_thresholds"], found: Contributions) -> Agreement:
        """Counts at all thresholds (ascending, not below 0) in one pass over the contributions."""
        n_bins, n = len(thresholds) + 1, len(found.positives)
        passed = torch.bucketize(found.strength, thresholds)  # how many thresholds are below
        place = found.feature * n_bins + passed

        def above(places: Tensor) -> Tensor:
            counts = places.bincount(minlength=n * n_bins).view(n, n_bins)
            return counts.flip(1).cumsum(1).flip(1)[:, 1:].T

        return cls(above(place[found.active]), above(place), found.positives)

    @property
    def precision(self) -> Float[Tensor, "n_thresholds n_represented"]:
        return self.defined(self.hits / self.fires.clamp_min(1))

    @property
    def recall(self) -> Float[Tensor, "n_thresholds n_represented"]:
        return self.defined(self.hits / self.positives.clamp_min(1))

    @property
    def f1(self) -> Float[Tensor, "n_thresholds n_represented"]:
        return self.defined(2 * self.hits / (self.fires + self.positives).clamp_min(1))

    def defined(self, score: Float[Tensor, "n_thresholds n_represented"]) -> Tensor:
        return score.masked_fill(self.positives == 0, torch.nan)


def f1_macro(matching: Matching, case: Case, codes: Float[Tensor, "rows n_features"]) -> float:
    """Mean over latents of the f1 with the feature of largest |cos|, 0 where undefined; NaN without features."""
    if len(matching.feature) == 0:
        return float("nan")
    nearest = matching.feature[matching.nearest_axis]
    hits, total = torch.zeros(2, len(nearest), dtype=torch.int64, device=codes.device)
    for rows, latents in case.blocks():
        fires, active = latents != 0, (codes[rows] > 0)[:, nearest]
        hits += (fires & active).sum(0)
        total += fires.sum(0) + active.sum(0)
    return float((2 * hits / total.clamp_min(1)).double().mean())
