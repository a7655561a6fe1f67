"""Does ablating the latent that points along a feature remove the feature from the reconstruction?

A feature g is recovered if its largest signed cosine with a latent exceeds `recovered` (.9). Let j be that latent.
Setting z_j = 0 takes z_j W_dec[j] out of the reconstruction, and with it r = z_j (W_dec[j] . f_g) along the feature.
With c the coefficient of g, over the test samples in which g is active,

    removed_g = sum c min(max(r, 0), c) / sum c^2

is the share of the feature's energy that the ablation removes. It is 1 if the ablation removes all of the feature in
every sample. Removing more than c, or writing against the feature, earns nothing. Over all test samples,

    stray_g = (sum of z_j^2 over the samples without g) / (sum of z_j^2)

is the share of the latent's energy that is written where g is absent; 1 for a latent that never fires.

    causal_share   mean of removed_g over the recovered features that are active in a test sample; 1 is best
    inert          share of these features with removed_g below `inert_below` (.5); 0 is best
    causal_stray   mean of stray_g over these features; 0 is best

All lie in [0, 1]; NaN where no feature is recovered. Chance: a latent on the feature's direction that fires
independently of it with probability q, with codes above c, has removed_g = q and stray_g = 1 - p, where p is the
feature's firing probability. Shrinkage counts: an L1-trained dictionary that returns .8 of every coefficient removes
.8. Two latents that share a feature equally remove half each, so both can be inert.

Published variant: 'cosine-recovered atoms can be causally inert' (arXiv 2607.12166) ablates latents inside a model;
here the effect is measured against the known coefficient c.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from sae.metric import Case, MetricConfig, Scores, mean

_CELLS = 2**24
"""Samples times features whose effects are computed at once."""
_NAMES = ("causal_share", "inert", "causal_stray")


class Config(MetricConfig):
    """Settings of the ablation scores; needs ``truth`` and ``codes``.

    Vectors, ``[n_features]``: `removed` and `stray`, NaN where not recovered.
    """

    kind: Literal["causal"] = "causal"
    recovered: float = Field(0.9, gt=0, lt=1)
    """Cosine above which a feature counts as recovered."""
    inert_below: float = Field(0.5, gt=0, le=1)
    """Share of the feature's energy below which the ablated latent counts as inert."""

    needs: ClassVar[frozenset[str]] = frozenset({"truth", "codes"})

    def score(self, case: Case) -> Scores:
        truth, codes, matching = case.evidence.truth, case.evidence.test.codes, case.matching
        assert truth is not None and codes is not None
        removed, stray = torch.full((2, len(truth.represented)), torch.nan, device=codes.device)
        if len(matching.feature):
            cosine, latent = matching.nearest_latent
            feature, latent = matching.feature[cosine > self.recovered], latent[cosine > self.recovered]
            used = case.test.at(latent)
            for part in torch.arange(len(feature), device=latent.device).split(max(1, _CELLS // len(codes))):
                directions = case.dictionary.W_dec[latent[part]], truth.directions[feature[part]]
                effects = effects_of(codes[:, feature[part]], used.dense(part), *directions)
                removed[feature[part]], stray[feature[part]] = effects
        seen = ~removed.isnan()
        values = (mean(removed[seen]), mean(removed[seen] < self.inert_below), mean(stray[seen]))
        return Scores(dict(zip(_NAMES, values, strict=True)), {"removed": removed, "stray": stray})


def effects_of(
    c: Float[Tensor, "rows n"],
    z: Float[Tensor, "rows n"],
    latents: Float[Tensor, "n d_in"],
    features: Float[Tensor, "n d_in"],
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """`removed` and `stray` of features with coefficients `c` and latents with codes `z`."""
    along = (latents.double() * features.double()).sum(1)
    row, which = (c > 0).nonzero(as_tuple=True)
    coefficient, code = c[row, which].double(), z[row, which].double()
    taken = coefficient * torch.minimum((code * along[which]).clamp_min(0), coefficient)
    sums = along.new_zeros(2, len(along)).index_add_(1, which, torch.stack([taken, coefficient.square()]))
    squares = z.square()
    astray, everywhere = (part.sum(0, dtype=torch.float64) for part in (squares.masked_fill(c > 0, 0), squares))
    return share(sums[0], sums[1]).float(), share(astray, everywhere).nan_to_num(1).float()


def share(part: Tensor, whole: Tensor) -> Tensor:
    """``part / whole``; NaN where `whole` is 0."""
    return torch.where(whole > 0, part / whole, torch.nan)
