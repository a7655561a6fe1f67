"""Scores as others compute them, under names of their own: to be read beside published tables, not to be judged by.

Not among the scores that are computed unless asked for (``score.metrics = [..., "legacy"]``). With e = x - x_hat on
the test rows, E over rows, d over dimensions, all sums in float64:

    ev_saebench             1 - E||e||^2 / (E||x||^2 - (mean_d E x_d^2)^2). SAEBench 0.6.0, and SAELens from 2025 to
                            March 2026. Subtracts the square of a mean square where the squared mean belongs: it
                            depends on the unit of x, and a constant at the mean does not score 0
    ev_per_token            E[1 - ||e||^2 / ||x - E x||^2]. The SAEBench paper; SAELens' explained_variance_legacy,
                            there with the mean of a batch. A ratio for each row: rows near the mean, which matter
                            least, weigh most, without a lower bound
    ev_per_dimension        mean_d (1 - E e_d^2 / Var x_d) over the dimensions that vary. Dimensions of little variance
                            count as much as the others; a rotation changes it
    ev_overcomplete         1 - mean e^2 / mean (x - m)^2, m one number, the mean over rows and dimensions.
                            overcomplete's r2_score: what the dimensions' means differ by counts as explained; a
                            rotation changes it
    fve_dictionary_learning 1 - sum_d Var e_d / sum_d Var x_d. dictionary_learning's frac_variance_explained: forgives
                            a constant bias, however large
    nmse_openai             E[||e||^2 / ||x||^2]. Gao et al. 2024's code: not centred, so a large mean makes it small;
                            for each row, so that small rows weigh most
    l2_ratio                E[||x_hat|| / ||x||]. dictionary_learning, SAEBench, and SAELens' shrinkage on toy data:
                            below 1 even for an unbiased reconstruction that is not perfect (`shrinkage` is not)
    token_cosine            E[cos(x, x_hat)], 0 where x_hat is 0 (NaN there, and so altogether, in SAELens and
                            dictionary_learning). Not centred: a constant scores near 1 where the mean is large
    l0_positive             E sum_j [z_j > 0]; ours, SAELens and dictionary_learning count z_j != 0, the same for codes
                            that are not negative
    dead_under_10           share of latents that fire on fewer than 10 test rows. sparse_coding; `dead` asks for none.
                            SAEBench and dictionary_learning (frac_alive) do too, of as many rows as happen to be
                            evaluated

and with the truth, S = cosines of features and latents:

    mcc_absolute            mean of |S| over the best one-to-one assignment of |S|, over the smaller side. SAELens' MCC
                            (SynthSAEBench): forgives a latent that points away from its feature; too few latents, or
                            copies, cost nothing
    uniqueness_absolute     number of different argmax_g |S_gj| / n_latents. SAELens' uniqueness: for a latent without
                            a direction, the first feature

What SAELens calls F1 is `f1_macro` of :mod:`sae.metrics.firing`, and its explained_variance (since 2026) ours. Where
the source has targets, y takes the place of x. Rows, or dimensions, whose denominator is 0 are left out.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sae.dictionary import Dictionary
from sae.metric import Case, MetricConfig, Scores, mean
from sae.numerics.matching import LARGEST_ASSIGNMENT, Matching, one_to_one

_ROWS_AT_ONCE = 4096
FEW_FIRINGS = 10


class Config(MetricConfig):
    """Needs activations alone; with ``truth``, also `mcc_absolute` and `uniqueness_absolute`."""

    kind: Literal["legacy"] = "legacy"
    by_default: ClassVar[bool] = False

    def score(self, case: Case) -> Scores:
        z = case.test_codes
        test = case.evidence.test
        found = reconstruction(case.dictionary, test.acts, z, test.wanted)
        positive, fired = (torch.stack([f(p).sum(0) for p in z.split(_ROWS_AT_ONCE)]).sum(0) for f in (_above, nonzero))
        found["l0_positive"] = float(positive.sum()) / len(z)
        found["dead_under_10"] = mean(fired < FEW_FIRINGS)
        if case.evidence.truth is not None:
            found |= absolute(case.matching)
        return Scores(found)


def reconstruction(
    d: Dictionary,
    x: Float[Tensor, "rows d_in"],
    z: Float[Tensor, "rows n_latents"],
    wanted: Float[Tensor, "rows d_out"] | None = None,
) -> dict[str, float]:
    """The forms of explained variance and their kin, of what is `wanted`: `x` itself where nothing else is given."""
    wanted = x if wanted is None else wanted
    centre = wanted.mean(0, dtype=torch.float64)
    # Of every dimension: x - centre, its square, e, its square, x^2; of every row: ratios.
    sums = torch.zeros(5, wanted.shape[1], dtype=torch.float64, device=x.device)
    rows: list[Tensor] = []
    for read, codes, piece in zip(*(t.split(_ROWS_AT_ONCE) for t in (x, z, wanted)), strict=True):
        with torch.no_grad():
            x_hat = d.reconstruct(read, codes).double()
        piece = piece.double()
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
    """`mcc_absolute` and `uniqueness_absolute`; NaN without features, the first also above the largest assignment."""
    size = matching.cosine.abs()
    mcc = unique = float("nan")
    if len(size):
        unique = len(size.argmax(0).unique()) / size.shape[1]
    if len(size) and max(size.shape) <= LARGEST_ASSIGNMENT:
        latent = one_to_one(size)
        has = latent >= 0
        mcc = mean(size[has, latent[has]])
    return {"mcc_absolute": mcc, "uniqueness_absolute": unique}


def _above(z: Tensor) -> Tensor:
    return z > 0


def nonzero(z: Tensor) -> Tensor:
    return z != 0
