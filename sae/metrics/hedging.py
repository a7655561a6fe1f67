"""Do the latents of other features contain the features that have no latent?

A dictionary that is too narrow or too sparse to give a feature h a latent lowers its error by adding a part of h to the
latents of features correlated with h. This is hedging (Chanin et al. 2025, 'Feature hedging'). Each feature is assigned
one latent by the one-to-one matching of the family `recovery`. It is *found* if their signed cosine is at least
`min_cosine`, else it is homeless. For features g and h, rho_gh is the correlation of their activities (0/1) on the
validation samples. For each homeless h let g be the found feature with the largest |rho_gh|, w_g its latent, and

    e_h = sign(rho_gh) (cos(w_g, f_h) - cos(w_g, f_g) cos(f_g, f_h)),

the part of f_h in w_g beyond what f_g contains of it.

    homeless   share of represented features that are homeless; in [0, 1], 0 is best
    hedged     mean of e_h over the homeless features with |rho_gh| >= `min_correlation`, where both are active in at
               least `least_rows` validation samples; in [-1, 1], 0 is best, positive is hedging; NaN if none qualifies

Example: one latent for a parent and a child that is active in a share q of the parent's samples, both with coefficient
1. The direction of least error is the leading eigenvector of a mixture of f_parent and f_parent + f_child in shares 1 -
q and q, which gives hedged = sin(arctan(2q / (1 - q)) / 2), .23 for q = .2. Mutually exclusive features are hedged with
a negative sign, which counts the same. Chance: directions that are true score 0, however few they are; random errors of
directions score 0 on average. If features are independent, none qualifies.

Compared with `child_in_parent` of the family `absorption`: that score measures the part of a child in its parent's
latent whether or not the child has a latent, and needs parents; this one concerns only features without a latent and
uses correlation of any origin. The paper's hedging rate, which compares with a second, wider dictionary and needs no
truth, is `sae.analysis.toy_models.hedging.hedging_rate`.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from sae.metric import Case, MetricConfig, Scores, mean
from sae.numerics.matching import unit

_PAIRS = 2**23
"""Pairs of features whose correlations are computed at once."""


class Config(MetricConfig):
    """Settings of the hedging scores; needs ``truth`` and ``codes``.

    Vector: `hedged` ``[n_features]``, e_h, NaN where it does not apply.
    """

    kind: Literal["hedging"] = "hedging"
    min_cosine: float = Field(0.5, gt=0, le=1)
    """Smallest signed cosine with its assigned latent at which a feature counts as found."""
    min_correlation: float = Field(0.1, gt=0, lt=1)
    """Smallest |rho_gh| at which a homeless feature counts in `hedged`."""
    least_rows: int = Field(10, gt=0)
    """Smallest number of validation samples in which both features must be active."""

    needs: ClassVar[frozenset[str]] = frozenset({"truth", "codes"})

    def score(self, case: Case) -> Scores:
        truth, codes, matching = case.evidence.truth, case.evidence.choose.codes, case.matching
        assert truth is not None and codes is not None
        excess = torch.full((len(truth.represented),), torch.nan, device=codes.device)
        if not len(matching.feature):
            return Scores({"homeless": math.nan, "hedged": math.nan}, {"hedged": excess})
        found = (matching.latent >= 0) & (matching.assignment.value >= self.min_cosine)
        active = codes[:, matching.feature] > 0
        frequent = active.sum(0) >= self.least_rows
        with_latent, homeless = (found & frequent).nonzero()[:, 0], (~found & frequent).nonzero()[:, 0]
        if len(with_latent) and len(homeless):
            rho, nearest = strongest_correlation(active[:, homeless], active[:, with_latent])
            correlated = rho.abs() >= self.min_correlation
            h, g, sign = homeless[correlated], with_latent[nearest[correlated]], rho[correlated].sign()
            f = truth.directions[matching.feature].float()
            w = unit(case.dictionary.W_dec[matching.latent[g]].float())
            beyond = (w * f[h]).sum(1) - (w * f[g]).sum(1) * (f[g] * f[h]).sum(1)
            excess[matching.feature[h]] = sign * beyond
        scalars = {"homeless": mean(~found), "hedged": float(excess.double().nanmean())}
        return Scores(scalars, {"hedged": excess})


def strongest_correlation(
    a: Bool[Tensor, "rows n_a"], b: Bool[Tensor, "rows n_b"]
) -> tuple[Float[Tensor, " n_a"], Int[Tensor, " n_a"]]:
    """For each column of `a`, its correlation with the column of `b` with which it is strongest, and that column."""
    parts: list[tuple[Tensor, Tensor]] = []
    for columns in a.split(max(1, _PAIRS // b.shape[1]), dim=1):
        rho = correlations(columns, b)
        strongest = rho.abs().argmax(1)
        parts.append((rho.gather(1, strongest[:, None])[:, 0], strongest))
    rho, strongest = (torch.cat(part) for part in zip(*parts, strict=True))
    return rho, strongest


def correlations(a: Bool[Tensor, "rows n_a"], b: Bool[Tensor, "rows n_b"]) -> Float[Tensor, "n_a n_b"]:
    """Pearson correlations of 0/1 columns, 0 where one is constant; fast where `a` is sparse."""
    n, p, q = len(a), a.double().mean(0), b.double().mean(0)
    both = (a.T.float().to_sparse() @ b.float()).double() / n
    spread = ((p * (1 - p))[:, None] * q * (1 - q)).sqrt()
    return torch.where(spread > 0, (both - p[:, None] * q) / spread, 0).float()
