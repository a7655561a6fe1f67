"""Correlated features with falling frequencies: the toy of Sharkey, Braun and Millidge 2022.

'Taking features out of superposition with sparse autoencoders', as in the code of its replication by
Cunningham et al. 2023: z ~ N(0, C) with C the symmetrised U[0, 1] matrix, its diagonal raised by
1.001 |lambda_min| to make it positive definite; p_g = Phi(z_g) ratio^g, rescaled to the mean `n_active` / `n_features`;
feature g fires with probability p_g, with strength U[0, 1]; a sample in which none fires gets one random feature at 1.

Strengths may also be ``lognormal``, exp N(0, 0.25) as in Korznikov et al. 2026, or ``binary``, 1. Unlike U[0, 1] they
are never weak, so a feature that is lost in noise is not lost because it is weak.

The diagonal of C is about 9.4 at 512 features, so Phi(z) is close to 0 or 1 and the correlations between features are
weak (about 0.05). The released code draws one z for a whole batch, so that features are independent within it; here
every sample has its own z, unless `per_batch_z` is set.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from sae.numerics.fast_random import keep_, uniform
from sae.numerics.seeds import generator
from sae.source import Batch, Source, Split, Truth
from sae.toys.base import ToyConfig, random_directions

PROBABILITY_ROWS = 16_384
SIGMA = 0.25
"""The standard deviation of the logarithm of lognormal strengths."""


class Config(ToyConfig):
    """Settings of a source of correlated features."""

    kind: Literal["correlated"] = "correlated"
    n_features: int = Field(512, gt=1)
    """The number of features."""
    d_in: int = Field(256, gt=0)
    """The width of the activations."""
    n_active: float = Field(5.0, gt=0)
    """The mean number of features that fire in a sample, before empty samples get a feature."""
    ratio: float = Field(0.99, gt=0, le=1)
    """The factor by which the probability to fire falls from one feature to the next."""
    per_batch_z: bool = False
    """Whether all samples of a batch share one z, as in the released code."""
    noise: float = Field(0.0, ge=0)
    """The standard deviation of Gaussian noise on every coordinate."""
    values: Literal["uniform", "lognormal", "binary"] = "uniform"
    """The distribution of the strengths of active features."""

    later: ClassVar[frozenset[str]] = frozenset({"values"})

    def least_bytes(self) -> dict[str, int]:
        # The covariance of all pairs of features and its Cholesky factor, in float64.
        return {**super().least_bytes(), f"n_features = {self.n_features}": 2 * 8 * self.n_features**2}

    def tensors(self) -> dict[str, Tensor]:
        draw = generator("correlation", self.seed)
        uniform = torch.rand(self.n_features, self.n_features, generator=draw, dtype=torch.float64)
        covariance = (uniform + uniform.T) / 2
        smallest = torch.linalg.eigvalsh(covariance)[0]
        covariance += 1.001 * smallest.abs() * torch.eye(self.n_features, dtype=torch.float64)
        factor = torch.linalg.cholesky(covariance).float().contiguous()
        directions = random_directions(self.n_features, self.d_in, generator("directions", self.seed))
        draws = self.draw_codes(factor, PROBABILITY_ROWS, generator("probability", self.seed))
        return {"directions": directions, "factor": factor, "probability": (draws > 0).float().mean(0)}

    def assemble(self, tensors: Mapping[str, Tensor]) -> Source:
        return CorrelatedSource(self, tensors["directions"], tensors["factor"], tensors["probability"])

    def draw_codes(
        self, factor: Float[Tensor, "n_features n_features"], size: int, draw: torch.Generator
    ) -> Float[Tensor, "batch n_features"]:
        """Draws the codes of `size` samples."""
        n = self.n_features
        z = torch.randn(1 if self.per_batch_z else size, n, generator=draw) @ factor.T
        p = torch.special.ndtr(z).mul_(self.ratio ** torch.arange(n))
        p *= self.n_active / n / p.mean(-1, keepdim=True)
        codes = keep_(self.strengths(size, draw), p, draw)
        empty = (codes.amax(-1) == 0).nonzero()[:, 0]
        codes[empty, torch.randint(n, (len(empty),), generator=draw)] = 1.0
        return codes

    def strengths(self, size: int, draw: torch.Generator) -> Float[Tensor, "batch n_features"]:
        """Draws the strength that each feature has if it fires."""
        if self.values == "binary":
            return torch.ones(size, self.n_features)
        if self.values == "lognormal":
            return torch.randn(size, self.n_features, generator=draw).mul_(SIGMA).exp_()
        return uniform((size, self.n_features), draw)


class CorrelatedSource(Source):
    """Samples of correlated features."""

    def __init__(
        self,
        config: Config,
        directions: Float[Tensor, "n_features d_in"],
        factor: Float[Tensor, "n_features n_features"],
        probability: Float[Tensor, " n_features"],
    ) -> None:
        self.config = config
        self.factor = factor
        self.directions = directions
        self.d_in = directions.shape[1]
        self.truth = Truth(directions, torch.ones(len(directions), dtype=torch.bool), probability)

    def batch(self, step: int, size: int, split: Split = "train") -> Batch:
        draw = generator("correlated", self.config.seed, split, step)
        codes = self.config.draw_codes(self.factor, size, draw)
        acts = codes @ self.directions
        if self.config.noise:
            acts += self.config.noise * torch.randn(acts.shape, generator=draw)
        return Batch(acts, codes)
