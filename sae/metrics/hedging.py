"""What becomes of features that have no latent: whether the latents of others carry them along.

A dictionary that is too narrow, or kept too sparse, to give a feature h a latent of its own lowers its error by
writing a part of h with the latents of features that h is correlated with: it hedges (Chanin et al. 2025, 'Feature
hedging'). Every feature has the latent w of the one-to-one assignment of :mod:`sae.metrics.recovery`, and is *found*
where its signed cosine with it is at least `min_cosine`; else it is homeless. rho_gh is the correlation of the two
activities (0/1) on the choose rows. Of each homeless h let g be the found feature with the largest |rho_gh|, and

    e_h = sign(rho_gh) (cos(w_g, f_h) - cos(w_g, f_g) cos(f_g, f_h))

what w_g has of h beyond its own feature's share in it.

    homeless   share of represented features that are homeless
    hedged     mean of e_h over the homeless features with |rho_gh| >= `min_correlation`, both active in at least
               `least_rows` choose rows; NaN where there is none

For one latent, and a child that is active in a share q of its parent's rows, both of coefficient 1, the direction of
least error is the leading one of f_parent and f_parent + f_child, in shares 1 - q and q: hedged = sin(arctan(2q / (1 -
q)) / 2), .23 for q = .2. Features that exclude each other are hedged with the other sign, which counts the same. It is
0 for directions that are the truth, be they too few, and 0 on average for errors of directions that have nothing to do
with correlation: noise has no preferred sign. Where features are independent nothing qualifies: NaN.

`child_in_parent` of :mod:`sae.metrics.absorption` asks how much of a child is in its parent's latent whether or not
the child has a latent of its own, and needs parents; this is about those without, and needs a correlation of any
origin. The rate of the paper, which needs no truth but a second, wider dictionary, is
:func:`sae.analysis.toy_models.hedging.hedging_rate`.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from sae.metric import Case, MetricConfig, Scores, mean
from sae.numerics.matching import unit


class Config(MetricConfig):
    """Needs ``truth`` and ``codes``. Vector: `hedged` ``[n_features]``, e_h, NaN where it does not apply."""

    kind: Literal["hedging"] = "hedging"
    min_cosine: float = Field(0.5, gt=0, le=1)
    min_correlation: float = Field(0.1, gt=0, lt=1)
    least_rows: int = Field(10, gt=0)

    needs: ClassVar[frozenset[str]] = frozenset({"truth", "codes"})

    def score(self, case: Case) -> Scores:
        truth, codes, matching = case.evidence.truth, case.evidence.choose.codes, case.matching
        assert truth is not None and codes is not None
        excess = torch.full((len(truth.represented),), torch.nan, device=codes.device)
        if matching.latent is None or not len(matching.feature):
            return Scores({"homeless": math.nan, "hedged": math.nan}, {"hedged": excess})
        own = matching.cosine.gather(1, matching.latent.clamp_min(0)[:, None])[:, 0]
        found = (matching.latent >= 0) & (own >= self.min_cosine)
        active = codes[:, matching.feature] > 0
        often = active.sum(0) >= self.least_rows
        home, homeless = (found & often).nonzero()[:, 0], (~found & often).nonzero()[:, 0]
        if len(home) and len(homeless):
            rho = correlations(active[:, homeless], active[:, home])
            strongest = rho.abs().max(1)
            kept = strongest.values >= self.min_correlation
            h, nearest = homeless[kept], strongest.indices[kept]
            g, sign = home[nearest], rho[kept].gather(1, nearest[:, None])[:, 0].sign()
            f = truth.directions[matching.feature].float()
            w = unit(case.dictionary.W_dec[matching.latent[g]].float())
            beyond = (w * f[h]).sum(1) - (w * f[g]).sum(1) * (f[g] * f[h]).sum(1)
            excess[matching.feature[h]] = sign * beyond
        scalars = {"homeless": mean(~found), "hedged": float(excess.double().nanmean())}
        return Scores(scalars, {"hedged": excess})


def correlations(a: Bool[Tensor, "rows n_a"], b: Bool[Tensor, "rows n_b"]) -> Float[Tensor, "n_a n_b"]:
    """Correlations of 0/1 columns, 0 where one does not vary; the first are sparse."""
    n, p, q = len(a), a.double().mean(0), b.double().mean(0)
    both = (a.T.float().to_sparse() @ b.float()).double() / n
    spread = ((p * (1 - p))[:, None] * q * (1 - q)).sqrt()
    return torch.where(spread > 0, (both - p[:, None] * q) / spread, 0).float()
