"""Which features tend to be active together: correlated standard normals, of which a Gaussian copula makes firing.

    z ~ N(0, R),    feature g is active where Phi(z_g) < p_g

so that every feature keeps its own probability. R is the correlation of z; that of the firing (phi) has the same
sign and is weaker, the weaker the rarer the features: at p = 1/2 it is (2/pi) arcsin R.
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
LARGEST_SHARED = 0.99
"""How much of a feature's variance at most is shared with others under a low-rank correlation."""


class Correlation(Settings, ABC):
    """A correlation matrix, as ``factor @ factor.T + diag(own^2)``."""

    @abstractmethod
    def tensors(self, n_features: int, seed: int) -> dict[str, Tensor]:
        """`factor` ``[n_features, rank]``, and `own` ``[n_features]`` where it is not zero."""


class _Dense(Correlation, ABC):
    """A correlation matrix that is written out: its cost grows with the cube of the number of features, to a minute at
    some thousands."""

    @abstractmethod
    def matrix(self, n_features: int, seed: int) -> Float64[Tensor, "n_features n_features"]: ...

    def tensors(self, n_features: int, seed: int) -> dict[str, Tensor]:
        values, vectors = torch.linalg.eigh(self.matrix(n_features, seed))
        if float(values[0]) < -SMALLEST_EIGENVALUE:
            raise UserError(
                f"activity.correlation: no variables correlate so, the smallest eigenvalue is {float(values[0]):.3g}; "
                "weaken the correlations"
            )
        return {"factor": (vectors * values.clamp_min(0).sqrt()).float()}


class Equal(_Dense):
    """The same correlation between any two features."""

    kind: Literal["equal"] = "equal"
    value: float = Field(gt=-1, lt=1)

    def matrix(self, n_features: int, seed: int) -> Float64[Tensor, "n_features n_features"]:
        return torch.full((n_features, n_features), self.value, dtype=torch.float64).fill_diagonal_(1)


class Matrix(_Dense):
    """Every correlation as given."""

    kind: Literal["matrix"] = "matrix"
    rows: tuple[tuple[float, ...], ...]

    def matrix(self, n_features: int, seed: int) -> Float64[Tensor, "n_features n_features"]:
        if {len(self.rows), *map(len, self.rows)} != {n_features}:
            raise UserError(f"activity.correlation.rows: {n_features} rows of {n_features} numbers are needed")
        r = torch.tensor(self.rows, dtype=torch.float64)
        if not torch.equal(r, r.T) or bool((r.diagonal() != 1).any()):
            raise UserError("activity.correlation.rows: a correlation matrix is symmetric, with ones on its diagonal")
        return r


class RandomCorrelation(_Dense):
    """Pairs are uncorrelated with probability `zero`, else correlate by ``+-U[low, high]``, positively with
    probability `positive`; Chanin and Garriga-Alonso 2025, 'Sparse but wrong'.

    Few such matrices can be: as in that paper's code eigenvalues are raised to be positive and the diagonal is
    rescaled to one, which weakens the correlations and fills the zeros in, the more the more features there are.
    """

    kind: Literal["random"] = "random"
    low: float = Field(0.3, ge=0, le=1)
    high: float = Field(0.9, ge=0, le=1)
    zero: float = Field(0.3, ge=0, le=1)
    positive: float = Field(0.5, ge=0, le=1)

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
    """A factor of rank `rank` with entries ``N(0, scale^2)``, the rest of each feature's variance its own: the
    correlation of SynthSAEBench (arXiv 2602.14687), cheap at any number of features."""

    kind: Literal["low_rank"] = "low_rank"
    rank: int = Field(gt=0)
    scale: float = Field(0.1, ge=0)

    def tensors(self, n_features: int, seed: int) -> dict[str, Tensor]:
        factor = self.scale * torch.randn(n_features, self.rank, generator=generator("correlation", seed))
        shared = factor.square().sum(1, keepdim=True)
        factor *= (LARGEST_SHARED / shared.clamp_min(LARGEST_SHARED)).sqrt()
        return {"factor": factor, "own": (1 - factor.square().sum(1)).sqrt()}


AnyCorrelation = Annotated[Equal | Matrix | RandomCorrelation | LowRank, Field(discriminator="kind")]


def normals(given: Mapping[str, Tensor], size: int, draw: torch.Generator) -> Float[Tensor, "size n_features"]:
    """Rows of standard normals that correlate as the tensors of a :class:`Correlation` say."""
    factor = given["factor"]
    z = torch.randn(size, factor.shape[1], generator=draw) @ factor.T
    return z.addcmul_(given["own"], torch.randn(z.shape, generator=draw)) if "own" in given else z
