"""Correlations between the activities of features, by a Gaussian copula.

    z ~ N(0, R),    feature g is active where Phi(z_g) < p_g

so that every feature keeps its own probability p_g. R is the correlation of z. The correlation of the activities (phi)
has the same sign and is weaker, the more so the rarer the features: at p = 1/2 it is (2/pi) arcsin R.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from jaxtyping import Float, Float64
from pydantic import Field
from torch import Tensor

from sae.numerics.seeds import generator
from sae.registry import Settings, UserError

SMALLEST_EIGENVALUE = 1e-6
"""Eigenvalues of a random correlation are raised to this; an explicit one may have none below its negative."""
LARGEST_SHARED = 0.99
"""Largest share of a feature's variance that comes from the factor of a low-rank correlation."""


class Correlation(Settings, ABC):
    """Interface of correlation matrices, as ``factor @ factor.T + diag(own^2)``."""

    @abstractmethod
    def tensors(self, n_features: int, seed: int) -> dict[str, Tensor]:
        """`factor` ``[n_features, rank]``, and `own` ``[n_features]`` unless it is zero.

        Raises `UserError` if there is no such correlation matrix.
        """


class _Dense(Correlation, ABC):
    """A full correlation matrix; its cost grows with the cube of the number of features (a minute for thousands)."""

    @abstractmethod
    def matrix(self, n_features: int, seed: int) -> Float64[Tensor, "n_features n_features"]:
        """The correlation matrix."""

    def tensors(self, n_features: int, seed: int) -> dict[str, Tensor]:
        values, vectors = torch.linalg.eigh(self.matrix(n_features, seed))
        if float(values[0]) < -SMALLEST_EIGENVALUE:
            raise UserError(
                "activity.correlation: not positive semi-definite, the smallest eigenvalue is "
                f"{float(values[0]):.3g}; weaken the correlations"
            )
        return {"factor": (vectors * values.clamp_min(0).sqrt()).float()}


class Equal(_Dense):
    """The same correlation between all pairs of features."""

    kind: Literal["equal"] = "equal"
    value: float = Field(gt=-1, lt=1)
    """The correlation."""

    def matrix(self, n_features: int, seed: int) -> Float64[Tensor, "n_features n_features"]:
        return torch.full((n_features, n_features), self.value, dtype=torch.float64).fill_diagonal_(1)


class Matrix(_Dense):
    """An explicit correlation matrix."""

    kind: Literal["matrix"] = "matrix"
    rows: tuple[tuple[float, ...], ...]
    """Rows of the matrix."""

    def matrix(self, n_features: int, seed: int) -> Float64[Tensor, "n_features n_features"]:
        if {len(self.rows), *map(len, self.rows)} != {n_features}:
            raise UserError(f"activity.correlation.rows: wrong shape; give {n_features} rows of {n_features} numbers")
        r = torch.tensor(self.rows, dtype=torch.float64)
        if not torch.equal(r, r.T) or bool((r.diagonal() != 1).any()):
            raise UserError(
                "activity.correlation.rows: no correlation matrix; give a symmetric one with ones on the diagonal"
            )
        return r


class RandomCorrelation(_Dense):
    """Random correlations: 0 with probability `zero`, else ``+-U[low, high]``; Chanin and Garriga-Alonso 2025, 'Sparse
    but wrong'.

    Such a matrix is rarely positive definite. As in that paper's code, eigenvalues are raised to be positive and the
    diagonal is rescaled to one. This weakens the correlations and makes zeros non-zero, the more so the more features
    there are.
    """

    kind: Literal["random"] = "random"
    low: float = Field(0.3, ge=0, le=1)
    """Smallest absolute correlation."""
    high: float = Field(0.9, ge=0, le=1)
    """Largest absolute correlation."""
    zero: float = Field(0.3, ge=0, le=1)
    """Probability that a pair is uncorrelated."""
    positive: float = Field(0.5, ge=0, le=1)
    """Probability that a non-zero correlation is positive."""

    def matrix(self, n_features: int, seed: int) -> Float64[Tensor, "n_features n_features"]:
        draw = generator("correlation", seed)
        shape = (n_features, n_features)
        linked, up, strength = (torch.rand(shape, generator=draw, dtype=torch.float64) for _ in range(3))
        signed = (self.low + (self.high - self.low) * strength) * torch.where(up < self.positive, 1.0, -1.0)
        upper = (signed * (linked >= self.zero)).triu(1)
        values, vectors = torch.linalg.eigh(upper + upper.T + torch.eye(n_features, dtype=torch.float64))
        covariance = (vectors * values.clamp_min(SMALLEST_EIGENVALUE)) @ vectors.T
        deviation = covariance.diagonal().sqrt()
        return covariance / deviation[:, None] / deviation


class LowRank(Correlation):
    """A random low-rank factor plus independent variance for each feature: the correlation of SynthSAEBench (arXiv
    2602.14687), cheap for any number of features."""

    kind: Literal["low_rank"] = "low_rank"
    rank: int = Field(gt=0)
    """Rank of the factor."""
    scale: float = Field(0.1, ge=0)
    """Standard deviation of the factor's normal entries."""

    def tensors(self, n_features: int, seed: int) -> dict[str, Tensor]:
        factor = self.scale * torch.randn(n_features, self.rank, generator=generator("correlation", seed))
        shared = factor.square().sum(1, keepdim=True)
        factor *= (LARGEST_SHARED / shared.clamp_min(LARGEST_SHARED)).sqrt()
        return {"factor": factor, "own": (1 - factor.square().sum(1)).sqrt()}


AnyCorrelation = Annotated[Equal | Matrix | RandomCorrelation | LowRank, Field(discriminator="kind")]


def normals(tensors: Mapping[str, Tensor], size: int, draw: torch.Generator) -> Float[Tensor, "size n_features"]:
    """Samples of standard normals with the correlation that the tensors of a :class:`Correlation` give."""
    factor = tensors["factor"]
    z = torch.randn(size, factor.shape[1], generator=draw) @ factor.T
    return z.addcmul_(tensors["own"], torch.randn(z.shape, generator=draw)) if "own" in tensors else z
