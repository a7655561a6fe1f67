"""A supervised linear probe per feature, fitted to the true codes: the ceiling of one-layer encoders.

    minimise  sum_i [softplus(l_ig) - y_ig l_ig] + l2/2 ||w_g||^2,    l = x~ w + b,    y = [active]

x~ are the whitened samples, so that the penalty is the same for every direction; it has the same weight for all
features, which at 1 is that of scikit-learn's logistic regression with C = 1. All features are fitted at once by L-BFGS
(Liu and Nocedal 1989), as the sum over features is one objective. A latent fires where its probe finds the feature more
likely active than not,

    z_g = s_g max(0, l_g),    s_g = sum c l+ / sum (l+)^2    the least squares fit to the true codes c

and its direction is the true direction of the feature. The firing scores thus measure the probes, while the cosines are
1 by construction. SynthSAEBench (arXiv 2602.14687) reports such a ceiling. The probes miss rare features, of which
there are few samples; `oracle` with ``encoder = "threshold"``, which sees all features equally often, may score higher.
"""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from sae.baseline import BaselineConfig
from sae.dictionaries.relu import Relu
from sae.numerics.fit_cost import FitCost, eigenvectors
from sae.source import Source

_SAMPLES_AT_ONCE = 8192
"""Samples per block when the objective is computed."""
_VARIANCE_FLOOR = 1e-4
"""Share of the mean variance that is added to the variance of every direction before whitening."""
LBFGS_HISTORY = 10
"""Number of past steps that L-BFGS uses."""


class Config(BaselineConfig):
    """Logistic regression probes of a source that has truth and codes.

    It runs for one seed: the directions are given, and `n_samples` is large enough for the choice of samples not to
    matter.
    """

    kind: Literal["supervised"] = "supervised"
    n_samples: int = Field(50_000, gt=1)
    """Number of training samples."""
    l2: float = Field(1.0, gt=0)
    """Weight of the penalty on the squared norm of each probe."""
    n_iterations: int = Field(50, gt=0)
    """Maximum number of L-BFGS steps."""

    needs: ClassVar[frozenset[str]] = frozenset({"truth", "codes"})
    seeded: ClassVar[bool] = False

    def fit(self, source: Source, seed: int) -> Relu:
        truth, batch = source.truth, source.at_most(self.n_samples, "train", step=seed)
        assert truth is not None and batch.codes is not None
        directions, codes = truth.directions[truth.represented], batch.codes[:, truth.represented]
        x, mean = batch.acts, batch.acts.mean(0)
        whiten = whitening(x - mean)
        probes = logistic_columns((x - mean) @ whiten, codes > 0, self.l2, self.n_iterations)
        W_enc = whiten @ probes.W
        log_odds = (x - mean) @ W_enc + probes.b
        scale = least_squares_scale(log_odds, codes)
        offset = torch.zeros_like(mean) if truth.offset is None else truth.offset
        b_enc = probes.b + (offset - mean) @ W_enc  # because a dictionary subtracts b_dec before it encodes
        d = Relu((W_enc * scale).contiguous(), directions, b_enc * scale, offset)
        # Whitening, then two products of samples and probes per evaluation of the objective.
        n = probes.n_evaluations
        work = x.numel() * source.d_in + eigenvectors(source.d_in) + 2 * n * x.numel() * len(directions)
        return d.with_card(**FitCost(len(x), (1 + n) * len(x), work).card_entry())


class ProbeWeights(NamedTuple):
    """Fitted probes, whose log odds are ``x W + b``."""

    W: Float[Tensor, "d_in n_features"]
    """Weights, one column per feature."""
    b: Float[Tensor, " n_features"]
    """Biases."""
    n_evaluations: int
    """How often the objective was evaluated on all samples."""


def logistic_columns(
    x: Float[Tensor, "batch d_in"], active: Bool[Tensor, "batch n_features"], l2: float, n_iterations: int
) -> ProbeWeights:
    """Fits a logistic regression to every column of `active`; initial weights are zero, initial biases the log odds of
    each column's frequency."""
    n, p = len(x), active.float().mean(0).clamp(0.5 / len(x), 1 - 0.5 / len(x))
    W, b = torch.zeros(x.shape[1], active.shape[1]).to(x), (p / (1 - p)).log()
    search = torch.optim.LBFGS(
        [W, b],
        max_iter=n_iterations,
        history_size=LBFGS_HISTORY,
        tolerance_grad=1e-7,
        tolerance_change=1e-9,
        line_search_fn="strong_wolfe",
    )
    n_evaluations = 0

    def loss() -> float:
        nonlocal n_evaluations
        n_evaluations += 1
        total, W.grad, b.grad = l2 / 2 * W.square().sum(), l2 / n * W, torch.zeros_like(b)
        for rows, y in zip(x.split(_SAMPLES_AT_ONCE), active.split(_SAMPLES_AT_ONCE), strict=True):
            log_odds = torch.addmm(b, rows, W)
            total += torch.nn.functional.softplus(log_odds).sum() - log_odds[y].sum()
            error = torch.sigmoid(log_odds) - y.to(x.dtype)
            W.grad.addmm_(rows.T, error, alpha=1 / n)
            b.grad += error.sum(0) / n
        return float(total / n)

    search.step(loss)
    return ProbeWeights(W, b, n_evaluations)


def whitening(centred: Float[Tensor, "batch d_in"]) -> Float[Tensor, "d_in d_in"]:
    """The inverse square root of the covariance."""
    values, vectors = torch.linalg.eigh((centred.T @ centred).double() / len(centred))
    values = values.clamp_min(0) + _VARIANCE_FLOOR * values.mean().clamp_min(1e-12)
    return (vectors * values**-0.5 @ vectors.T).to(centred)


def least_squares_scale(
    log_odds: Float[Tensor, "batch n_features"], codes: Float[Tensor, "batch n_features"]
) -> Float[Tensor, " n_features"]:
    """The factors by which positive log odds best fit the codes, by least squares; 1 where the two are never positive
    together."""
    positive = log_odds.relu()
    along, power = (positive * codes).sum(0), positive.square().sum(0)
    return torch.where(along > 0, along / power.clamp_min(1e-30), torch.ones_like(along))
