"""One layer with per-latent thresholds, fitted to the lasso codes of training samples.

    z_j = pre_j where pre_j > threshold_j, else 0;    pre = (x - b_dec) W_enc + b_enc

It turns the codes of an L1-trained dictionary, many of them small and the large ones shrunk, into those of a JumpReLU
(Rajamanoharan et al. 2024). No truth is used: thresholds, slopes and offsets are those that agree best with the
debiased non-negative lasso codes of training samples (:mod:`sae.numerics.threshold_fit`). With ``layer = "own"`` the
columns of `W_enc` keep their directions. With ``layer = "learned"`` they are learned anew, by one logistic regression
per latent of whether its lasso code is positive, starting at Fisher's discriminant,

    W_enc = Cov(x)^-1 W_dec^T,    minimise  -sum_j [y_j log p_j + (1 - y_j) log(1 - p_j)],    p = sigmoid(x W_enc + b)

by Adam. To every sample of a batch one random latent is added, ``x + z_j W_dec[j]`` with z_j drawn from the codes of
that latent, so that rare latents are seen as often as frequent ones. Thresholds are fitted to unchanged samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from sae.dictionary import Dictionary
from sae.encoder import LassoConfig, encoder_rows, needed, taken
from sae.numerics.fit_cost import FitCost
from sae.numerics.seeds import generator
from sae.numerics.sparse_coding import lasso_multiply_adds, sparse_codes
from sae.numerics.threshold_fit import fit_jump
from sae.numerics.thresholding import above
from sae.source import Source

START_LOGIT = 12.0
"""What an added code of 1 adds to the logit of its latent before training."""
START_BIAS = -5.0
"""Logit of every latent at ``x = b_dec`` before training."""


class Config(LassoConfig):
    """Fits one layer to lasso codes, which take most of the time; the inherited settings are those of the lasso."""

    kind: Literal["threshold"] = "threshold"
    layer: Literal["own", "learned"] = "own"
    """Whether the layer keeps the directions of the dictionary's `W_enc` (`own`) or learns new ones (`learned`)."""
    n_rows: int = Field(65_536, gt=0)
    """Number of training samples whose lasso codes are computed."""
    steps: int = Field(1000, gt=0)
    """Number of Adam steps of the logistic regression (`learned` only)."""
    batch_size: int = Field(2048, gt=0)
    """Samples per Adam step (`learned` only)."""
    lr: float = Field(0.3, gt=0)
    """Initial learning rate of Adam, which decays linearly to zero (`learned` only)."""

    def fit(self, d: Dictionary, source: Source | None, seed: int) -> Threshold:
        x = encoder_rows(needed(source, "to set thresholds on"), d, 1, self.n_rows) - d.b_dec
        codes = sparse_codes(x, d.W_dec, *self.raw(d, source), self.n_iterations, self.tolerance).debiased
        if self.layer == "own":
            W_enc, b_enc = d.W_enc, d.b_enc
        else:
            W_enc, b_enc = self.learn(x, codes, d.W_dec, seed)
        slope, offset, threshold = fit_jump(x @ W_enc + b_enc, codes)
        return Threshold(W_enc * slope, d.W_dec, b_enc * slope + offset, d.b_dec, threshold=threshold)

    def fit_cost(self, d: Dictionary, source: Source | None) -> FitCost:
        """Per training sample two lassos, one of them to debias, and the product of the layer; with
        ``layer = "learned"`` also the covariance, and two products per sample of the regression."""
        n = taken(needed(source, "to set thresholds on"), self.n_rows)
        layer = d.d_in * d.n_latents
        work = n * (2 * lasso_multiply_adds(d.W_dec, self.n_iterations) + layer)
        if self.layer == "own":
            return super().fit_cost(d, source).plus(FitCost(n, n, work), None)
        drawn = self.steps * self.batch_size
        return super().fit_cost(d, source).plus(FitCost(n, n + drawn, work + 2 * drawn * layer + n * d.d_in**2), None)

    def learn(
        self,
        x: Float[Tensor, "batch d_in"],
        codes: Float[Tensor, "batch n_latents"],
        W_dec: Float[Tensor, "n_latents d_in"],
        seed: int,
    ) -> tuple[Float[Tensor, "d_in n_latents"], Float[Tensor, " n_latents"]]:
        """Weights and biases of the logistic regressions, all trained at once; `x` has ``b_dec`` subtracted."""
        W = fisher_discriminant(x, W_dec)
        parameters = [W * START_LOGIT, torch.full_like(W[0], START_BIAS)]
        adam = torch.optim.Adam(parameters, lr=self.lr, betas=(0.9, 0.99))
        draw, add_latent = generator("threshold", seed), LatentAdder(codes, W_dec)
        for step in range(self.steps):
            adam.param_groups[0]["lr"] = self.lr * (1 - step / self.steps)
            index = torch.randint(len(x), (self.batch_size,), generator=draw).to(x.device)
            rows, active = add_latent(x[index], codes[index] > 0, draw)
            error = torch.sigmoid(rows @ parameters[0] + parameters[1]) - active.to(x.dtype)
            parameters[0].grad = rows.T @ error / self.batch_size
            parameters[1].grad = error.mean(0)
            adam.step()
        return parameters[0], parameters[1]


def fisher_discriminant(
    x: Float[Tensor, "batch d_in"], W_dec: Float[Tensor, "n_latents d_in"]
) -> Float[Tensor, "d_in n_latents"]:
    """``Cov(x)^-1 W_dec^T``, scaled so that a code of 1 adds 1 to its latent's output."""
    centred = (x - x.mean(0)).double()
    covariance = centred.T @ centred / len(x)
    ridge = 1e-4 * covariance.diagonal().mean().clamp_min(1e-12) * torch.eye(len(covariance)).to(covariance)
    W = torch.linalg.solve(covariance + ridge, W_dec.T.double())
    along = (W * W_dec.T).sum(0)
    return (W / torch.where(along > 0, along, torch.ones_like(along))).to(x.dtype)


class LatentAdder:
    """Adds one random latent to every sample, with a code drawn from the latent's positive codes."""

    def __init__(self, codes: Float[Tensor, "batch n_latents"], W_dec: Float[Tensor, "n_latents d_in"]) -> None:
        by_latent = codes.T.contiguous()
        self.counts = (by_latent > 0).sum(1).cpu()
        self.first = self.counts.cumsum(0) - self.counts
        self.codes, self.W_dec = by_latent[by_latent > 0], W_dec
        self.active_latents = self.counts.nonzero()[:, 0]

    def __call__(
        self, x: Float[Tensor, "batch d_in"], active: Tensor, draw: torch.Generator
    ) -> tuple[Float[Tensor, "batch d_in"], Tensor]:
        """The samples with the added latents, and which latents are active in them."""
        if len(self.active_latents) == 0:
            return x, active
        latent = self.active_latents[torch.randint(len(self.active_latents), (len(x),), generator=draw)]
        which = (torch.rand(len(x), generator=draw) * self.counts[latent]).long()
        position, latent = (self.first[latent] + which).to(x.device), latent.to(x.device)
        augmented = x + self.codes[position][:, None] * self.W_dec[latent]
        return augmented, active.scatter(1, latent[:, None], True)


@dataclass(frozen=True, eq=False)
class Threshold(Dictionary):
    """Dictionary with one layer and a threshold per latent, ``z = pre * [pre > threshold]``."""

    kind: ClassVar[str] = "threshold"
    independent_latents: ClassVar[bool] = True

    threshold: Float[Tensor, " n_latents"]
    """Pre-activations up to this value give a code of zero."""

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch n_latents"]:
        return above(self.centred(x) @ self.W_enc + self.b_enc, self.threshold)

    def settings(self) -> dict[str, float | int | str | bool]:
        return {}


KIND = Threshold
