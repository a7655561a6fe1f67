"""Do the codes equal the true coefficients: are they correlated with them, and of the same size?

With c_g the coefficient of feature g and z_j the code of latent j over the test samples:

    code_mcc             sum of |Pearson(c_g, z_j)| over the pairs of the best one-to-one assignment, divided by the
                         number of features; in [0, 1], 1 is best; a feature without a partner counts 0
    code_mcc_all         the same sum divided by the larger of the numbers of features and latents; in [0, 1]
    coefficient_slope    mean over features of sum c u / sum c^2 over the samples in which the feature is active, with
                         u = z_j ||W_dec[j]|| the contribution of its latent; 1 is unbiased, below 1 is shrunk
    coefficient_r2       mean over features of Pearson(c_g, u)^2 over all samples, 0 for a feature without a partner;
                         in [0, 1], 1 is best

Only represented features whose coefficient varies in the test samples (variance above 1e-8) count. `code_mcc` assigns
features to latents by the correlation of codes. It needs no directions, judges encoder and dictionary together, and
gives full score to a latent that points away from its feature but follows its coefficient. The last two scores use the
assignment by direction of the family `recovery`; they are left out where directions are unknown.

Published variant: the MCC of codes is that of O'Neill et al. 2025, 'Compute optimal inference and provable amortisation
gap in sparse autoencoders', and Pacela et al. 2026 (arXiv 2603.28744). Their code pads the narrower side with columns
of Gaussian noise and averages over all columns of the wider; a padded column contributes a chance correlation of about
1 / sqrt(samples). We pad with zeros: `code_mcc_all` is their score without that chance term, and with as many latents
as features all three are equal. The chance level of `code_mcc` is above 0: with N samples, random codes reach the best
of many correlations of size 1 / sqrt(N).

The slope is that of a line through the origin. An L1 penalty subtracts a constant from every code, which a fitted
intercept would hide. The slope is undefined, and left out of the mean, for a feature without a partner; a partner that
never fires has slope 0 and r2 0. r2 is insensitive to shrinkage. Assignments of many pairs are found as in the family
`recovery`; code_mcc_unproven is the share of the smaller side with a pair that could still raise code_mcc, and is left
out where it is 0.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae.metric import Case, MetricConfig, Scores, mean
from sae.metrics._correlations import VARIES, Correlations
from sae.numerics.active_codes import SplitCodes
from sae.numerics.assignment import Assignment, assign

_CELLS = 2**22
"""Samples times features that are compared at once."""


class Config(MetricConfig):
    """Settings of the scores of codes; needs ``codes``, and ``truth`` for `coefficient_slope` and `coefficient_r2`.

    Vectors, ``[n_features]``: `correlation` (of the assignment by codes), `slope` and `r2`, NaN where undefined.
    """

    kind: Literal["codes"] = "codes"
    needs: ClassVar[frozenset[str]] = frozenset({"codes"})

    def score(self, case: Case) -> Scores:
        codes, truth = case.evidence.test.codes, case.evidence.truth
        assert codes is not None
        varies = codes.var(0, correction=0) > VARIES
        if truth is not None:
            varies &= truth.represented.to(varies.device)
        assignment = matched_correlations(codes[:, varies], case.test)
        correlation = assignment.value
        scalars = {
            "code_mcc": mean(correlation),
            "code_mcc_all": mean(correlation) * len(correlation) / max(len(correlation), case.test.n_latents),
        }
        if assignment.unproven:
            scalars["code_mcc_unproven"] = assignment.unproven
        vectors = {"correlation": _spread(correlation, varies)}
        if truth is not None:
            slope, r2 = coefficients(case, codes, varies)
            scalars |= {"coefficient_slope": mean(slope[~slope.isnan()]), "coefficient_r2": mean(r2[varies])}
            vectors |= {"slope": slope, "r2": r2}
        return Scores(scalars, vectors)


def matched_correlations(codes: Float[Tensor, "rows n_varying"], z: SplitCodes) -> Assignment:
    """|Pearson| of each feature with the latent assigned to it, 0 without one."""
    if codes.shape[1] == 0:
        return Assignment(torch.zeros(0, dtype=torch.int64, device=codes.device), codes.new_zeros(0), 0.0)
    return assign(Correlations.of(codes, z))


def coefficients(
    case: Case, codes: Float[Tensor, "rows n_features"], varies: Bool[Tensor, " n_features"]
) -> tuple[Float[Tensor, " n_features"], Float[Tensor, " n_features"]]:
    """`slope` and `r2` of every feature with the latent assigned to it by direction."""
    matching = case.matching
    slope, r2 = codes.new_full((2, codes.shape[1]), torch.nan)
    r2[varies] = 0
    has = (matching.latent >= 0) & varies[matching.feature]
    every, latents = matching.feature[has], matching.latent[has]
    z, norm = case.test.at(latents), case.dictionary.W_dec.norm(dim=-1)[latents]
    for part in torch.arange(len(every), device=every.device).split(max(1, _CELLS // len(codes))):
        feature, u = every[part], z.dense(part) * norm[part]
        c = codes[:, feature].to(u)
        slope[feature] = ((c * u).sum(0) / c.square().sum(0)).to(slope)
        r2[feature] = (_standardised(c) * _standardised(u)).sum(0).square().to(r2)
    return slope, r2


def _standardised(columns: Float[Tensor, "rows n"]) -> Float[Tensor, "rows n"]:
    """Columns with mean zero and norm one; zero where a column does not vary."""
    centred = columns - columns.mean(0, dtype=torch.float64).to(columns)
    norm = centred.norm(dim=0)
    nonconstant = norm > (len(columns) * VARIES) ** 0.5 * columns.abs().amax(0)
    return centred * torch.where(nonconstant, 1 / norm.clamp_min(1e-30), torch.zeros_like(norm))


def _spread(values: Float[Tensor, " n_varying"], varies: Bool[Tensor, " n_features"]) -> Float[Tensor, " n_features"]:
    """The values at the positions where `varies` is true, NaN elsewhere."""
    every = values.new_full((len(varies),), torch.nan)
    every[varies] = values
    return every
