"""How accurately, and how sparsely, a dictionary reconstructs activations.

Measured on the test samples, with E the mean over samples and all sums in float64:

    l0                  E sum_j [z_j != 0], the number of active latents
    true_l0             the number of active features among those that the activations represent, where the true codes
                        are known
    l1_norm             E sum_j |z_j|
    fvu                 E||x - x_hat||^2 / (E||x||^2 - ||E x||^2), the fraction of variance unexplained; at least 0,
                        0 is best
    fvu_median          the median over samples of ||x - x_hat||^2 / ||x - m||^2, with m the mean without outliers: from
                        the mean of all, five times the mean of the nine tenths of the samples nearest to the last; at
                        least 0, 0 is best, 1 is no better than the mean
    outlier_variance    the share of the variance E||x - E x||^2 in the hundredth of the samples that are farthest from
                        the mean; in [0, 1]
    explained_variance  1 - fvu; at most 1, 1 is best
    shrinkage           E||x_hat||^2 / E[x . x_hat]; 1 is unbiased, below 1 is shrunk
    fvu_active_1, ...   fvu of the samples with exactly 1, 2, 3 or 4 active features, with variance about their own mean
    dead                share of latents that fire on no test sample; in [0, 1], 0 is best
    dense               share of latents that fire on more than a tenth of the test samples; in [0, 1]

A few samples of very large norm, such as attention sinks, can carry nearly all of the variance; fvu then says little
of the others, and `outlier_variance` is above one half. `fvu_median` is that of an ordinary sample: neither its median
nor its centre m moves with outliers, be they up to a tenth of the samples. Samples at m itself are left out, and of
two samples in the middle the lower one counts.

For a transcoder the targets y take the place of x in fvu, fvu_median, outlier_variance and shrinkage, with
x_hat = decode(encode(x)).

Published variants: `explained_variance` is R^2 over all dimensions together, as in SAELens (since 2026) and
sparse_coding; a constant at the mean scores 0. Others differ: the SAEBench paper averages ratios of single tokens;
dictionary_learning uses the variance of x - x_hat as the numerator and so ignores a constant bias; OpenAI's code does
not centre. `shrinkage` is gamma in eq. 10 of Rajamanoharan et al. 2024, 'Gated SAEs', the factor by which x_hat should
be divided to be closest to x. Like theirs it is not centred, so a large mean moves it towards 1. It is not the ratio of
norms, which is below 1 even for an unbiased reconstruction.

`dead` depends on the number of test samples: more samples give fewer dead latents. Features that share dimensions
interfere when they are active together; comparing `fvu_active_1` with `fvu_active_2` shows how much. They are NaN with
fewer than 100 such samples.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae.metric import Case, Evidence, MetricConfig, Scores
from sae.metrics._code_sums import ReconstructionError, code_sums
from sae.numerics.weak_cache import once_per_object

_DENSE = 0.1
MOST_ACTIVE = 4
_LEAST_ROWS = 100
_OUTLIERS = 100
"""One of this many samples counts towards `outlier_variance`."""
_CENTRINGS = 5
"""How often the mean is taken without the farthest tenth of the samples."""
_ROWS_AT_ONCE = 4096


class Config(MetricConfig):
    """Settings of the reconstruction scores; needs only activations.

    Vector: `density` ``[n_latents]``, the share of test samples in which each latent fires.
    """

    kind: Literal["reconstruction"] = "reconstruction"

    def score(self, case: Case) -> Scores:
        test, sums = case.evidence.test, code_sums(case)
        density = sums.firings / len(test.acts)
        scalars = {
            "l0": float(sums.firings.sum()) / len(test.acts),
            **fidelity_of(sums.error),
            **robust_fidelity(sums.error.of_samples, spread_of(case.evidence)),
            "dead": float((sums.firings == 0).double().mean()),
            "dense": float((density > _DENSE).double().mean()),
            "l1_norm": sums.l1 / len(test.acts),
        }
        if test.codes is not None:
            active, truth = test.codes > 0, case.evidence.truth
            counted = active if truth is None else active[:, truth.represented]
            scalars["true_l0"] = float(counted.sum()) / len(active)
            scalars |= fvu_by_active(sums.error.of_samples, test.wanted, active.sum(1))
        return Scores(scalars, {"density": density})


def fidelity_of(measured: ReconstructionError) -> dict[str, float]:
    """`explained_variance`, `fvu` and `shrinkage`; NaN where the target does not vary or the reconstruction is 0."""
    error, variance, power, overlap = measured.sums.tolist()
    fvu = ratio(error, variance)
    return {"explained_variance": 1 - fvu, "fvu": fvu, "shrinkage": ratio(power, overlap)}


class Spread(NamedTuple):
    """How the test samples lie about their centre."""

    of_samples: Float[Tensor, " rows"]
    """The squared distance of every sample from the robust centre."""
    outlier_variance: float
    """The share of the variance in the samples that are farthest from the mean."""


@once_per_object
def spread_of(evidence: Evidence) -> Spread:
    """The spread of what is reconstructed, computed once for all dictionaries of a source."""
    target = evidence.test.wanted
    n = len(target)
    centre = target.mean(0, dtype=torch.float64)
    variance = _squared_distance(target, centre)
    largest = variance.topk(-(-n // _OUTLIERS)).values
    for _ in range(_CENTRINGS):
        nearest = _squared_distance(target, centre).topk(n - n // 10, largest=False).indices
        centre = target[nearest].mean(0, dtype=torch.float64)
    return Spread(_squared_distance(target, centre), ratio(float(largest.sum()), float(variance.sum())))


def _squared_distance(rows: Float[Tensor, "rows d_out"], centre: Float[Tensor, " d_out"]) -> Float[Tensor, " rows"]:
    return torch.cat([(piece.double() - centre).square().sum(-1) for piece in rows.split(_ROWS_AT_ONCE)])


def robust_fidelity(error: Float[Tensor, " rows"], spread: Spread) -> dict[str, float]:
    """`fvu_median`, NaN where no sample is off the centre, and `outlier_variance`."""
    off = spread.of_samples > 0
    median = (error[off] / spread.of_samples[off]).median() if bool(off.any()) else torch.tensor(torch.nan)
    return {"fvu_median": float(median), "outlier_variance": spread.outlier_variance}


def fvu_by_active(
    error: Float[Tensor, " rows"], target: Float[Tensor, "rows d_out"], n_active: Int[Tensor, " rows"]
) -> dict[str, float]:
    """`fvu_active_1` to `fvu_active_4`, from the squared error of every sample; NaN with fewer than 100 such
    samples."""
    scores: dict[str, float] = {}
    for k in range(1, MOST_ACTIVE + 1):
        rows = n_active == k
        wanted = target[rows]
        variance = _squared_distance(wanted, wanted.mean(0, dtype=torch.float64)).sum() if len(wanted) else error.sum()
        enough = len(wanted) >= _LEAST_ROWS
        scores[f"fvu_active_{k}"] = ratio(float(error[rows].sum()), float(variance)) if enough else float("nan")
    return scores


def ratio(numerator: float, denominator: float) -> float:
    """``numerator / denominator``; NaN where the denominator is 0."""
    return numerator / denominator if denominator else float("nan")
