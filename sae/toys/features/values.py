"""How strongly an active feature fires.

Magnitudes are non-negative, like codes. A signed feature is two features with opposite directions of which at most one
is active (activity ``one_of`` of size 2, directions ``polytope`` ``digon``).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor

from sae.numerics.fast_random import uniform
from sae.numerics.seeds import generator
from sae.registry import Settings, UserError
from sae.toys.features.series import ConstantSeries, PerFeature, numbers

SIGNED = "codes are not negative; split a signed feature into two, one for each direction (one_of, digon)"


class Values(Settings, ABC):
    """Interface of distributions of magnitudes."""

    @abstractmethod
    def tensors(self, n_features: int, seed: int) -> dict[str, Tensor]:
        """The parameters of the distribution.

        Among them are `mean` ``[n_features]``, the mean of positive magnitudes, and `positive` ``[n_features]``, the
        probability of a magnitude above 0, unless it is 1 for all.

        Raises `UserError` if no distribution satisfies the settings.
        """

    @abstractmethod
    def draw(self, tensors: Mapping[str, Tensor], feature: Int[Tensor, " n"], draw: torch.Generator) -> Tensor:
        """A magnitude for each entry of `feature`, the index of its feature."""


class Uniform(Values):
    """Uniform magnitudes, ``U[low, high]``."""

    kind: Literal["uniform"] = "uniform"
    low: float = 0.0
    """Smallest magnitude."""
    high: float = 1.0
    """Largest magnitude."""

    @model_validator(mode="after")
    def _in_order(self) -> Uniform:
        if self.low < 0:
            raise UserError(f"low = {self.low:g}: {SIGNED}")
        if self.high <= self.low:
            raise UserError(f"high = {self.high:g}: not above low = {self.low:g}; raise it")
        return self

    def tensors(self, n_features: int, seed: int) -> dict[str, Tensor]:
        return {"mean": torch.full((n_features,), (self.low + self.high) / 2)}

    def draw(self, tensors: Mapping[str, Tensor], feature: Int[Tensor, " n"], draw: torch.Generator) -> Tensor:
        return self.low + (self.high - self.low) * uniform((len(feature),), draw)


class ConstantValue(Values):
    """A constant magnitude for each feature."""

    kind: Literal["constant"] = "constant"
    value: PerFeature = ConstantSeries(value=1.0)
    """The magnitude of each feature."""

    def tensors(self, n_features: int, seed: int) -> dict[str, Tensor]:
        return {"mean": above_zero(self.value, n_features, seed, "values.value")}

    def draw(self, tensors: Mapping[str, Tensor], feature: Int[Tensor, " n"], draw: torch.Generator) -> Tensor:
        return tensors["mean"][feature]


class DiscreteValues(Values):
    """A random choice among a few magnitudes."""

    kind: Literal["choice"] = "choice"
    values: tuple[float, ...] = Field(min_length=1)
    """The magnitudes."""
    weights: tuple[float, ...] | None = None
    """Relative frequency of each magnitude; None for equal ones."""

    @model_validator(mode="after")
    def _fit(self) -> DiscreteValues:
        if min(self.values) < 0:
            raise UserError(f"values = {list(self.values)}: {SIGNED}")
        if min(self.values) == 0:
            raise UserError(
                f"values = {list(self.values)}: 0 means inactive; leave it out and lower activity.probability"
            )
        if self.weights is not None and (len(self.weights) != len(self.values) or min(self.weights) <= 0):
            raise UserError(f"weights = {list(self.weights)}: give one weight above 0 for each of the values")
        return self

    def tensors(self, n_features: int, seed: int) -> dict[str, Tensor]:
        weights = self.weights or (1.0,) * len(self.values)
        mean = sum(v * w for v, w in zip(self.values, weights, strict=True)) / sum(weights)
        return {"mean": torch.full((n_features,), mean)}

    def draw(self, tensors: Mapping[str, Tensor], feature: Int[Tensor, " n"], draw: torch.Generator) -> Tensor:
        upper = torch.tensor(self.weights or (1.0,) * len(self.values)).cumsum(0)
        drawn = torch.bucketize(uniform((len(feature),), draw) * upper[-1], upper, right=True)
        return torch.tensor(self.values)[drawn.clamp_max(len(self.values) - 1)]


class LogNormal(Values):
    """Log-normal magnitudes, ``exp(N(mu, sigma^2))``."""

    kind: Literal["lognormal"] = "lognormal"
    mu: float = 0.0
    """Mean of the logarithm."""
    sigma: float = Field(0.25, ge=0)
    """Standard deviation of the logarithm."""

    def tensors(self, n_features: int, seed: int) -> dict[str, Tensor]:
        return {"mean": torch.full((n_features,), math.exp(self.mu + self.sigma**2 / 2))}

    def draw(self, tensors: Mapping[str, Tensor], feature: Int[Tensor, " n"], draw: torch.Generator) -> Tensor:
        return (self.mu + self.sigma * torch.randn(len(feature), generator=draw)).exp_()


class FoldedNormal(Values):
    """Folded normal magnitudes, ``|N(mu, sigma^2)|``; half normal for ``mu = 0``."""

    kind: Literal["folded_normal"] = "folded_normal"
    mu: float = 0.0
    """Mean of the normal distribution."""
    sigma: float = Field(1.0, gt=0)
    """Standard deviation of the normal distribution."""

    def tensors(self, n_features: int, seed: int) -> dict[str, Tensor]:
        r = self.mu / self.sigma
        mean = self.sigma * math.sqrt(2 / math.pi) * math.exp(-(r**2) / 2) + self.mu * math.erf(r / math.sqrt(2))
        return {"mean": torch.full((n_features,), mean)}

    def draw(self, tensors: Mapping[str, Tensor], feature: Int[Tensor, " n"], draw: torch.Generator) -> Tensor:
        return (self.mu + self.sigma * torch.randn(len(feature), generator=draw)).abs_()


class RectifiedNormal(Values):
    """Rectified normal magnitudes, ``ReLU(N(mu, sigma^2))``.

    A magnitude of 0 makes the feature inactive: it is active with ``Phi(mu / sigma)`` times the probability of its
    activity.
    """

    kind: Literal["rectified_normal"] = "rectified_normal"
    mu: PerFeature = ConstantSeries(value=1.0)
    """Mean of the normal distribution of each feature."""
    sigma: PerFeature
    """Standard deviation of the normal distribution of each feature."""

    def tensors(self, n_features: int, seed: int) -> dict[str, Tensor]:
        mu = above_zero(self.mu, n_features, seed, "values.mu")
        sigma = above_zero(self.sigma, n_features, seed, "values.sigma")
        positive = torch.special.ndtr(mu / sigma)
        density = (-0.5 * (mu / sigma) ** 2).exp() / math.sqrt(2 * math.pi)
        return {"mu": mu, "sigma": sigma, "positive": positive, "mean": mu + sigma * density / positive}

    def draw(self, tensors: Mapping[str, Tensor], feature: Int[Tensor, " n"], draw: torch.Generator) -> Tensor:
        noise = torch.randn(len(feature), generator=draw)
        return noise.mul_(tensors["sigma"][feature]).add_(tensors["mu"][feature]).relu_()


AnyValues = Annotated[
    Uniform | ConstantValue | DiscreteValues | LogNormal | FoldedNormal | RectifiedNormal, Field(discriminator="kind")
]


def above_zero(series: PerFeature, n: int, seed: int, field: str) -> Float[Tensor, " n"]:
    """The numbers of the setting `field`; raises `UserError` if one is not above 0."""
    values = numbers(series, n, generator(field, seed), field)
    if float(values.min()) <= 0:
        raise UserError(f"{field}: {float(values.min()):.4g} is not above 0; raise it")
    return values.float()
