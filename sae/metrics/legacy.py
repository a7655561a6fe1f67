"""Scores as other libraries compute them, under separate names, for comparison with published tables.

They are computed only on request (``score.metrics = [..., "legacy"]``). Prefer the scores of the other families. With
e = x - x_hat on the test samples, E the mean over samples, d a dimension, and all sums in float64:

    ev_saebench             1 - E||e||^2 / (E||x||^2 - (mean_d E x_d^2)^2); 1 is best. SAEBench 0.6.0, and SAELens from
                            2025 to March 2026. Subtracts the square of a mean square instead of the squared mean, so
                            it depends on the unit of x, and a constant at the mean does not score 0
    ev_per_token            E[1 - ||e||^2 / ||x - E x||^2]; 1 is best. The SAEBench paper, and SAELens'
                            explained_variance_legacy, which uses the mean of a batch. A ratio per sample: samples near
                            the mean, which matter least, weigh most; there is no lower bound
    ev_per_dimension        mean over the dimensions that vary of 1 - E e_d^2 / Var x_d; 1 is best. Dimensions of small
                            variance count as much as others; changes under rotation
    ev_overcomplete         1 - mean e^2 / mean (x - m)^2 with one number m, the mean over samples and dimensions; 1 is
                            best. overcomplete's r2_score. Differences between the means of dimensions count as
                            explained; changes under rotation
    fve_dictionary_learning 1 - sum_d Var e_d / sum_d Var x_d; 1 is best. dictionary_learning's frac_variance_explained.
                            Ignores a constant bias of any size
    nmse_openai             E[||e||^2 / ||x||^2]; 0 is best. The code of Gao et al. 2024. Not centred, so a large mean
                            makes it small; a ratio per sample, so small samples weigh most
    l2_ratio                E[||x_hat|| / ||x||]; 1 is best. dictionary_learning, SAEBench, and SAELens' shrinkage on
                            toy data. Below 1 for an imperfect reconstruction even if it is unbiased; `shrinkage` is not
    token_cosine            E[cos(x, x_hat)], 0 where x_hat is 0; in [-1, 1], 1 is best. In SAELens and
                            dictionary_learning such samples make the mean NaN. Not centred: a constant scores near 1
                            where the mean is large
    l0_positive             E sum_j [z_j > 0]. We, SAELens and dictionary_learning count z_j != 0 in l0, which is the
                            same for non-negative codes
    dead_under_10           share of latents that fire on fewer than 10 test samples; in [0, 1]. sparse_coding. `dead`
                            counts latents that never fire, as SAEBench and dictionary_learning (frac_alive) do on
                            their evaluation samples

With the truth, and S the cosines between features and latents:

    mcc_absolute            mean of |S| over the best one-to-one assignment by |S|, over the smaller side; in [0, 1], 1
                            is best. SAELens' MCC (SynthSAEBench). A latent that points away from its feature counts as
                            a match; missing latents and copies cost nothing
    uniqueness_absolute     number of different argmax_g |S_gj| / n_latents; in [0, 1]. SAELens' uniqueness. A latent
                            with a zero decoder row counts for the first feature

SAELens' F1 is `f1_macro` of the family `firing`; its explained_variance (since 2026) is ours. For a transcoder the
targets y take the place of x. Samples or dimensions whose denominator is 0 are left out.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from sae.metric import Case, MetricConfig, Scores, mean
from sae.metrics._code_sums import code_sums
from sae.numerics.matching import Matching

FEW_FIRINGS = 10


class Config(MetricConfig):
    """Settings of the scores of other libraries; needs activations, and ``truth`` for `mcc_absolute` and
    `uniqueness_absolute`."""

    kind: Literal["legacy"] = "legacy"
    by_default: ClassVar[bool] = False

    def score(self, case: Case) -> Scores:
        scores = reconstruction(case)
        positive = sum(int((z > 0).sum()) for _, z in case.blocks())
        scores["l0_positive"] = positive / case.test.n_rows
        scores["dead_under_10"] = mean(code_sums(case).firings < FEW_FIRINGS)
        if case.evidence.truth is not None:
            scores |= absolute(case.matching)
        return Scores(scores)


def reconstruction(case: Case) -> dict[str, float]:
    """The variants of explained variance and related scores."""
    x, target = case.evidence.test.acts, case.evidence.test.wanted
    centre = target.mean(0, dtype=torch.float64)
    # Per dimension: x - centre, its square, e, its square, x^2. Per sample: ratios.
    sums = torch.zeros(5, target.shape[1], dtype=torch.float64, device=x.device)
    rows: list[Tensor] = []
    for block, z in case.blocks():
        with torch.no_grad():
            x_hat = case.dictionary.reconstruct(x[block], z).double()
        piece = target[block].double()
        e, away = piece - x_hat, piece - centre
        sums += torch.stack([t.sum(0) for t in (away, away.square(), e, e.square(), piece.square())])
        error, norm, norm_hat = e.square().sum(1), piece.norm(dim=1), x_hat.norm(dim=1)
        cosine = (piece * x_hat).sum(1) / (norm * norm_hat.where(norm_hat > 0, 1))
        ratios = 1 - error / away.square().sum(1), error / norm.square(), norm_hat / norm, cosine
        rows.append(torch.stack(ratios))
    _, var, bias, error, power = sums / len(x)
    per_row = torch.cat(rows, dim=1)
    per_token, nmse, l2_ratio, cosine = per_row.masked_fill(~per_row.isfinite(), torch.nan).nanmean(1).tolist()
    scalar_variance = power.mean() - centre.mean().square()
    varies = var > 0
    return {
        "ev_saebench": float(1 - error.sum() / (power.sum() - power.mean().square())),
        "ev_per_token": per_token,
        "ev_per_dimension": mean(1 - error[varies] / var[varies]),
        "ev_overcomplete": float(1 - error.mean() / scalar_variance),
        "fve_dictionary_learning": float(1 - (error - bias.square()).sum() / var.sum()),
        "nmse_openai": nmse,
        "l2_ratio": l2_ratio,
        "token_cosine": cosine,
    }


def absolute(matching: Matching) -> dict[str, float]:
    """`mcc_absolute` and `uniqueness_absolute`; NaN without features."""
    mcc = unique = float("nan")
    if len(matching.feature):
        unique = len(matching.nearest_axis.unique()) / len(matching.nearest_axis)
        found = matching.absolute_assignment
        mcc = mean(found.value[found.column >= 0])
    return {"mcc_absolute": mcc, "uniqueness_absolute": unique}
