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

A feature that is active in no test sample has no recall and is left out of the means over features. All but `f1_macro`
are NaN where features or latents outnumber `sae.numerics.matching.LARGEST_ASSIGNMENT`.
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
        macro = {"f1_macro": f1_macro(matching, case.test_codes, true_codes)}
        if matching.latent is None:
            return Scores(dict.fromkeys(_NAMES, float("nan")) | macro)
        threshold = self.choose(case, matching.latent)
        grid = torch.stack([torch.zeros_like(threshold), threshold])
        test = Agreement.at(grid, *supports(case, matching.latent, "test"))
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

    def choose(self, case: Case, latent: Int[Tensor, " n_represented"]) -> Float[Tensor, ""]:
        """The threshold with the highest mean f1 on the validation samples; the smallest if several tie."""
        strength, active = supports(case, latent, "choose")
        fired = strength[strength > 0].sort().values
        if len(fired) == 0:
            return strength.new_zeros(())
        quantiles = torch.arange(self.n_thresholds, device=fired.device) * len(fired) // self.n_thresholds
        grid = torch.cat([fired.new_zeros(1), fired[quantiles]])
        return grid[Agreement.at(grid, strength, active).f1.nanmean(-1).nan_to_num().argmax()]


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
    def at(
        cls,
        thresholds: Float[Tensor, " n_thresholds"],
        strength: Float[Tensor, "rows n_represented"],
        active: Bool[Tensor, "rows n_represented"],
    ) -> Agreement:
        """Counts at all thresholds (ascending, not below 0) in one pass over the non-zero contributions."""
        n_bins, n = len(thresholds) + 1, strength.shape[1]
        row, feature = (strength > 0).nonzero(as_tuple=True)
        passed = torch.bucketize(strength[row, feature], thresholds)  # how many thresholds are below
        place = feature * n_bins + passed

        def above(places: Tensor) -> Tensor:
            counts = places.bincount(minlength=n * n_bins).view(n, n_bins)
            return counts.flip(1).cumsum(1).flip(1)[:, 1:].T

        return cls(above(place[active[row, feature]]), above(place), active.sum(0))

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


def supports(
    case: Case, latent: Int[Tensor, " n_represented"], half: Literal["choose", "test"]
) -> tuple[Tensor, Tensor]:
    """The contribution of each represented feature's latent (0 without one), and whether the feature is active; both
    ``[rows, n_represented]``."""
    batch, z = (case.evidence.choose, case.choose_codes) if half == "choose" else (case.evidence.test, case.test_codes)
    assert batch.codes is not None
    norm = case.dictionary.W_dec.norm(dim=-1)[latent] * (latent >= 0)
    return z[:, latent].abs() * norm, batch.codes[:, case.matching.feature] > 0


def f1_macro(matching: Matching, z: Float[Tensor, "rows n_latents"], codes: Float[Tensor, "rows n_features"]) -> float:
    """Mean over latents of the f1 with the feature of largest |cos|, 0 where undefined; NaN without features."""
    if len(matching.feature) == 0:
        return float("nan")
    nearest = matching.feature[matching.cosine.abs().argmax(0)]
    hits, total = torch.zeros(2, z.shape[1], dtype=torch.int64, device=z.device)
    for latents, features in zip(z.split(_ROWS_AT_ONCE), codes.split(_ROWS_AT_ONCE), strict=True):
        fires, active = latents != 0, (features > 0)[:, nearest]
        hits += (fires & active).sum(0)
        total += fires.sum(0) + active.sum(0)
    return float((2 * hits / total.clamp_min(1)).double().mean())
