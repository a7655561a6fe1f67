"""A linear probe for every feature, given when it was active: the ceiling of one layer that was told.

    minimise  sum_i [softplus(l_ig) - y_ig l_ig] + l2/2 ||w_g||^2,    l = x~ w + b,    y = [active]

x~ are the rows whitened, so that the penalty means the same for every direction; one weight for all features, as C = 1
of scikit-learn's logistic regression is. All features are fitted at once by L-BFGS (Liu and Nocedal 1989; the sum over
features is one objective). A latent fires where the probe finds its feature more likely active than not,

    z_g = s_g max(0, l_g),    s_g = sum c l+ / sum (l+)^2    the least squares fit to the true codes c

and its direction is the feature's own. So the firing is the probe's decision, and cosines are perfect because they
were given. SynthSAEBench (arXiv 2602.14687) reports such a ceiling. Rare features, of
which the rows hold few, are what it misses; `oracle` with ``encoder = "threshold"``, which sees every feature as often
as any other, may come above it.
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

_ROWS_AT_ONCE = 8192
_FLOOR = 1e-4
"""How much of the mean variance is added to every direction's before it is whitened."""
MEMORY = 10
"""How many steps L-BFGS remembers."""


class Config(BaselineConfig):
    """Settings; probes on `n_samples` rows, with the penalty `l2`, in at most `n_iterations` steps of L-BFGS. Run once:
    the directions are given, and the rows are many."""

    kind: Literal["supervised"] = "supervised"
    n_samples: int = Field(50_000, gt=1)
    l2: float = Field(1.0, gt=0)
    n_iterations: int = Field(50, gt=0)

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
        scale = scale_of(log_odds, codes)
        offset = torch.zeros_like(mean) if truth.offset is None else truth.offset
        b_enc = probes.b + (offset - mean) @ W_enc  # a dictionary takes b_dec from x before it encodes
        d = Relu((W_enc * scale).contiguous(), directions, b_enc * scale, offset)
        # Whitening, then two products of rows and probes each time that the objective is asked for.
        work = x.numel() * source.d_in + eigenvectors(source.d_in) + 2 * probes.looks * x.numel() * len(directions)
        return d.with_card(**FitCost(len(x), (1 + probes.looks) * len(x), work).card_entry())


class ProbeWeights(NamedTuple):
    """Log odds ``x W + b``, and how often the rows were looked at."""

    W: Float[Tensor, "d_in n_features"]
    b: Float[Tensor, " n_features"]
    looks: int


def logistic_columns(
    x: Float[Tensor, "rows d_in"], active: Bool[Tensor, "rows n_features"], l2: float, n_iterations: int
) -> ProbeWeights:
    """The logistic regressions of all columns of `active`, from nothing but how often each is active."""
    n, p = len(x), active.float().mean(0).clamp(0.5 / len(x), 1 - 0.5 / len(x))
    W, b = torch.zeros(x.shape[1], active.shape[1]).to(x), (p / (1 - p)).log()
    search = torch.optim.LBFGS(
        [W, b],
        max_iter=n_iterations,
        history_size=MEMORY,
        tolerance_grad=1e-7,
        tolerance_change=1e-9,
        line_search_fn="strong_wolfe",
    )
    looks = 0

    def loss() -> float:
        nonlocal looks
        looks += 1
        total, W.grad, b.grad = l2 / 2 * W.square().sum(), l2 / n * W, torch.zeros_like(b)
        for rows, y in zip(x.split(_ROWS_AT_ONCE), active.split(_ROWS_AT_ONCE), strict=True):
            log_odds = torch.addmm(b, rows, W)
            total += torch.nn.functional.softplus(log_odds).sum() - log_odds[y].sum()
            error = torch.sigmoid(log_odds) - y.to(x.dtype)
            W.grad.addmm_(rows.T, error, alpha=1 / n)
            b.grad += error.sum(0) / n
        return float(total / n)

    search.step(loss)
    return ProbeWeights(W, b, looks)


def whitening(centred: Float[Tensor, "rows d_in"]) -> Float[Tensor, "d_in d_in"]:
    """The inverse root of the covariance."""
    values, vectors = torch.linalg.eigh((centred.T @ centred).double() / len(centred))
    values = values.clamp_min(0) + _FLOOR * values.mean().clamp_min(1e-12)
    return (vectors * values**-0.5 @ vectors.T).to(centred)


def scale_of(
    log_odds: Float[Tensor, "rows n_features"], codes: Float[Tensor, "rows n_features"]
) -> Float[Tensor, " n_features"]:
    """What makes positive log odds codes, by least squares; one where they never meet."""
    positive = log_odds.relu()
    along, power = (positive * codes).sum(0), positive.square().sum(0)
    return torch.where(along > 0, along / power.clamp_min(1e-30), torch.ones_like(along))
