"""Whether the codes are the true coefficients: how well they follow them, and whether they are as large.

With c_g the coefficient of feature g and z_j the code of latent j over the test rows:

    code_mcc             sum of |Pearson(c_g, z_j)| over the pairs of the best one-to-one assignment, over the number of
                         features; a feature without a partner counts 0
    code_mcc_all         the same sum over the larger of the numbers of features and of latents
    coefficient_slope    mean over features of  sum c u / sum c^2  over the rows in which the feature is active, with
                         u = z_j ||W_dec[j]|| the contribution of its latent: 1 is unbiased, below 1 shrunk
    coefficient_r2       mean over features of Pearson(c_g, u)^2 over all rows, 0 for a feature without a partner

The features are the represented ones whose coefficient varies (variance above 1e-8) in the test rows. `code_mcc` needs
no directions: its pairs are those of the codes themselves, so that it measures the encoder and the dictionary at once,
and a latent that points away from its feature but follows it has its full score. The other two ask of the pairs that
:mod:`sae.metrics.recovery` makes by direction (``truth`` is needed; else they are left out).

The MCC of codes is that of O'Neill et al. 2025, 'Compute optimal inference and provable amortisation gap in sparse
autoencoders', and Pacela et al. 2026 (arXiv 2603.28744). Their code fills up the narrower side with columns of
Gaussian noise and averages over all columns of the wider; what noise is matched with has a correlation of about
``1 / sqrt(rows)`` by luck. We fill up with nothing: `code_mcc_all` is theirs without the luck, and where there are as
many latents as features all three agree. Its chance level is not 0: random codes of N rows have the best of many
correlations of size ``1 / sqrt(N)``.

The slope is that of a line through the origin: an L1 penalty takes a constant from a code rather than a share, which a
line with a free intercept would forgive. It is undefined, and left out of the mean, for a feature without a partner; a
partner that never fires has slope 0 and r2 0. The squared correlation does not see shrinkage, only whether rows are
told apart. Above `sae.numerics.matching.LARGEST_ASSIGNMENT` there is no assignment, and all are NaN.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae.metric import Case, MetricConfig, Scores, mean
from sae.numerics.matching import LARGEST_ASSIGNMENT, one_to_one

VARIES = 1e-8
"""The variance from which a coefficient counts as varying."""


class Config(MetricConfig):
    """Needs ``codes``; `coefficient_slope` and `coefficient_r2` need ``truth`` as well. Vectors, ``[n_features]``:
    `correlation` (of the assignment by codes), `slope` and `r2`, NaN where undefined."""

    kind: Literal["codes"] = "codes"
    needs: ClassVar[frozenset[str]] = frozenset({"codes"})

    def score(self, case: Case) -> Scores:
        codes, truth = case.evidence.test.codes, case.evidence.truth
        assert codes is not None
        asked = codes.var(0, correction=0) > VARIES
        if truth is not None:
            asked &= truth.represented.to(asked.device)
        correlation = matched_correlations(codes[:, asked], case.test_codes)
        scalars = {
            "code_mcc": mean(correlation),
            "code_mcc_all": mean(correlation) * len(correlation) / max(len(correlation), case.test_codes.shape[1]),
        }
        vectors = {"correlation": _spread(correlation, asked)}
        if truth is not None:
            slope, r2 = coefficients(case, codes, asked)
            scalars |= {"coefficient_slope": mean(slope[~slope.isnan()]), "coefficient_r2": mean(r2[asked])}
            vectors |= {"slope": slope, "r2": r2}
        return Scores(scalars, vectors)


def matched_correlations(
    codes: Float[Tensor, "rows n_asked"], z: Float[Tensor, "rows n_latents"]
) -> Float[Tensor, " n_asked"]:
    """|Pearson| of each feature with the latent assigned to it, 0 without one; NaN where there are too many."""
    if max(codes.shape[1], z.shape[1]) > LARGEST_ASSIGNMENT:
        return codes.new_full((codes.shape[1],), torch.nan)
    size = (_standardised(codes.to(z)).T @ _standardised(z)).abs()
    latent = one_to_one(size)
    return size.gather(1, latent.clamp_min(0)[:, None])[:, 0] * (latent >= 0)


def coefficients(
    case: Case, codes: Float[Tensor, "rows n_features"], asked: Bool[Tensor, " n_features"]
) -> tuple[Float[Tensor, " n_features"], Float[Tensor, " n_features"]]:
    """`slope` and `r2` of every feature, with the latent that is matched to it by direction."""
    matching = case.matching
    slope, r2 = codes.new_full((2, codes.shape[1]), torch.nan)
    if matching.latent is None:
        return slope, r2
    r2[asked] = 0
    has = (matching.latent >= 0) & asked[matching.feature]
    feature, latent = matching.feature[has], matching.latent[has]
    u = case.test_codes[:, latent] * case.dictionary.W_dec.norm(dim=-1)[latent]
    c = codes[:, feature].to(u)
    slope[feature] = ((c * u).sum(0) / c.square().sum(0)).to(slope)
    r2[feature] = (_standardised(c) * _standardised(u)).sum(0).square().to(r2)
    return slope, r2


def _standardised(columns: Float[Tensor, "rows n"]) -> Float[Tensor, "rows n"]:
    """Columns with mean zero and norm one; zero where a column does not vary."""
    centred = columns - columns.mean(0, dtype=torch.float64).to(columns)
    norm = centred.norm(dim=0)
    varies = norm > (len(columns) * VARIES) ** 0.5 * columns.abs().amax(0)
    return centred * torch.where(varies, 1 / norm.clamp_min(1e-30), torch.zeros_like(norm))


def _spread(values: Float[Tensor, " n_asked"], asked: Bool[Tensor, " n_features"]) -> Float[Tensor, " n_features"]:
    """The values in their places among all features, NaN elsewhere."""
    every = values.new_full((len(asked),), torch.nan)
    every[asked] = values
    return every
