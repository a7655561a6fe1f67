"""Whether the latent that points where a feature does is also what puts the feature into the reconstruction.

A feature g is recovered where the largest signed cosine of a latent with it exceeds .9 (`recovered_90`); j is that
latent. Ablating it, z_j = 0, takes z_j W_dec[j] out of the reconstruction. Over the test rows in which g is active
with coefficient c, and with the part of that along the feature, r = z_j (W_dec[j] . f_g),

    removed_g = sum c min(max(r, 0), c) / sum c^2

is the share of the feature's energy that the ablation removes: 1 where it takes away all of the feature, wherever it
is; taking away more than there is, or adding, does not count in favour.

    causal_share   mean of removed_g over the recovered features that are active in a test row
    inert          share of those with removed_g below `inert_below`, a half
    causal_stray   mean over the same of sum z_j^2 over the rows without g / sum z_j^2: how much of what the latent
                   writes is written where there is nothing to be removed; 1 for a latent that never fires

A direction can be right while its latent is silent, or says something else: 'cosine-recovered atoms can be causally
inert' (arXiv 2607.12166, which ablates in a model; here the cause is known, the coefficient c). NaN where nothing is
recovered. Two latents that share a feature's strength remove half each, so that a copy makes both inert. Chance, for a
latent on the direction that is active independently with probability q and a code above c: removed q, stray 1 - p.
Shrinkage counts: an L1 dictionary that gives back .8 of every coefficient removes .8.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from sae.metric import Case, MetricConfig, Scores, mean

_NAMES = ("causal_share", "inert", "causal_stray")


class Config(MetricConfig):
    """Needs ``truth`` and ``codes``. Vectors, ``[n_features]``: `removed` and `stray`, NaN where not recovered."""

    kind: Literal["causal"] = "causal"
    recovered: float = Field(0.9, gt=0, lt=1)
    inert_below: float = Field(0.5, gt=0, le=1)

    needs: ClassVar[frozenset[str]] = frozenset({"truth", "codes"})

    def score(self, case: Case) -> Scores:
        truth, codes, matching = case.evidence.truth, case.evidence.test.codes, case.matching
        assert truth is not None and codes is not None
        removed, stray = torch.full((2, len(truth.represented)), torch.nan, device=codes.device)
        if len(matching.feature):
            cosine, latent = matching.cosine.max(1)
            feature, latent = matching.feature[cosine > self.recovered], latent[cosine > self.recovered]
            along = (case.dictionary.W_dec[latent].double() * truth.directions[feature].double()).sum(1)
            c, z = codes[:, feature], case.test_codes[:, latent]
            row, which = (c > 0).nonzero(as_tuple=True)
            there, written = c[row, which].double(), z[row, which].double()
            taken = there * torch.minimum((written * along[which]).clamp_min(0), there)
            sums = along.new_zeros(2, len(feature)).index_add_(1, which, torch.stack([taken, there.square()]))
            squares = z.square()
            astray, everywhere = (part.sum(0, dtype=torch.float64) for part in (squares.masked_fill(c > 0, 0), squares))
            removed[feature] = share(sums[0], sums[1]).float()
            stray[feature] = share(astray, everywhere).nan_to_num(1).float()
        seen = ~removed.isnan()
        found = (mean(removed[seen]), mean(removed[seen] < self.inert_below), mean(stray[seen]))
        return Scores(dict(zip(_NAMES, found, strict=True)), {"removed": removed, "stray": stray})


def share(part: Tensor, whole: Tensor) -> Tensor:
    """NaN where there is no whole."""
    return torch.where(whole > 0, part / whole, torch.nan)
