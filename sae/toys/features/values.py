"""How strongly an active feature fires. Magnitudes are not negative, as codes are: a signed feature is two features,
one for each direction, of which one is active (activity ``one_of`` of size 2, directions ``polytope`` ``digon``)."""

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
from sae.toys.features.series import ConstantSeries as Same
from sae.toys.features.series import PerFeature, numbers

SIGNED = "codes are not negative; split a signed feature into two, one for each direction (one_of, digon)"


class Values(Settings, ABC):
    """A law of magnitudes."""

    @abstractmethod
    def tensors(self, n_features: int, seed: int) -> dict[str, Tensor]:
        """What magnitudes are drawn from: `mean` ``[n_features]`` of those above 0, and `positive`, the probability to
        be above 0, where it is not 1 for all."""

    @abstractmethod
    def draw(self, given: Mapping[str, Tensor], feature: Int[Tensor, " n"], draw: torch.Generator) -> Tensor:
        """A magnitude for each entry of `feature`, which says whose it is."""


class Uniform(Values):
    """``U[low, high]``."""

    kind: Literal["uniform"] = "uniform"
    low: float = 0.0
    high: float = 1.0

    @model_validator(mode="after")
    def _in_order(self) -> Uniform:
        if self.low < 0:
            raise UserError(f"low = {self.low:g}: {SIGNED}")
        if self.high <= self.low:
            raise UserError(f"high = {self.high:g} is not above low = {self.low:g}")
        return self

    def tensors(self, n_features: int, seed: int) -> dict[str, Tensor]:
        return {"mean": torch.full((n_features,), (self.low + self.high) / 2)}

    def draw(self, given: Mapping[str, Tensor], feature: Int[Tensor, " n"], draw: torch.Generator) -> Tensor:
        return self.low + (self.high - self.low) * uniform((len(feature),), draw)


class ConstantValue(Values):
    """Always `value`, a number for each feature."""

    kind: Literal["constant"] = "constant"
    value: PerFeature = Same(value=1.0)

    def tensors(self, n_features: int, seed: int) -> dict[str, Tensor]:
        return {"mean": above_zero(self.value, n_features, seed, "values.value")}

    def draw(self, given: Mapping[str, Tensor], feature: Int[Tensor, " n"], draw: torch.Generator) -> Tensor:
        return given["mean"][feature]


class DiscreteValues(Values):
    """One of `values`, by `weights`; all as likely without."""

    kind: Literal["choice"] = "choice"
    values: tuple[float, ...] = Field(min_length=1)
    weights: tuple[float, ...] | None = None

    @model_validator(mode="after")
    def _fit(self) -> DiscreteValues:
        if min(self.values) < 0:
            raise UserError(f"values: {min(self.values):g}: {SIGNED}")
        if min(self.values) == 0:
            raise UserError("values: 0 is silence; leave it out, and lower activity.probability")
        if self.weights is not None and (len(self.weights) != len(self.values) or min(self.weights) <= 0):
            raise UserError("weights: one above 0 for each of the values")
        return self

    def tensors(self, n_features: int, seed: int) -> dict[str, Tensor]:
        weights = self.weights or (1.0,) * len(self.values)
        mean = sum(v * w for v, w in zip(self.values, weights, strict=True)) / sum(weights)
        return {"mean": torch.full((n_features,), mean)}

    def draw(self, given: Mapping[str, Tensor], feature: Int[Tensor, " n"], draw: torch.Generator) -> Tensor:
        upper = torch.tensor(self.weights or (1.0,) * len(self.values)).cumsum(0)
        drawn = torch.bucketize(uniform((len(feature),), draw) * upper[-1], upper, right=True)
        return torch.tensor(self.values)[drawn.clamp_max(len(self.values) - 1)]


class LogNormal(Values):
    """``exp N(mu, sigma)``."""

    kind: Literal["lognormal"] = "lognormal"
    mu: float = 0.0
    sigma: float = Field(0.25, ge=0)

    def tensors(self, n_features: int, seed: int) -> dict[str, Tensor]:
        return {"mean": torch.full((n_features,), math.exp(self.mu + self.sigma**2 / 2))}

    def draw(self, given: Mapping[str, Tensor], feature: Int[Tensor, " n"], draw: torch.Generator) -> Tensor:
        return (self.mu + self.sigma * torch.randn(len(feature), generator=draw)).exp_()


class FoldedNormal(Values):
    """``|N(mu, sigma)|``; half normal at ``mu = 0``."""

    kind: Literal["folded_normal"] = "folded_normal"
    mu: float = 0.0
    sigma: float = Field(1.0, gt=0)

    def tensors(self, n_features: int, seed: int) -> dict[str, Tensor]:
        r = self.mu / self.sigma
        mean = self.sigma * math.sqrt(2 / math.pi) * math.exp(-(r**2) / 2) + self.mu * math.erf(r / math.sqrt(2))
        return {"mean": torch.full((n_features,), mean)}

    def draw(self, given: Mapping[str, Tensor], feature: Int[Tensor, " n"], draw: torch.Generator) -> Tensor:
        return (self.mu + self.sigma * torch.randn(len(feature), generator=draw)).abs_()


class RectifiedNormal(Values):
    """``ReLU(N(mu, sigma))``, each with a number for each feature. What is cut off at 0 makes a feature silent: it is
    active with ``Phi(mu / sigma)`` times the probability of its activity."""

    kind: Literal["rectified_normal"] = "rectified_normal"
    mu: PerFeature = Same(value=1.0)
    sigma: PerFeature

    def tensors(self, n_features: int, seed: int) -> dict[str, Tensor]:
        mu = above_zero(self.mu, n_features, seed, "values.mu")
        sigma = above_zero(self.sigma, n_features, seed, "values.sigma")
        positive = torch.special.ndtr(mu / sigma)
        density = (-0.5 * (mu / sigma) ** 2).exp() / math.sqrt(2 * math.pi)
        return {"mu": mu, "sigma": sigma, "positive": positive, "mean": mu + sigma * density / positive}

    def draw(self, given: Mapping[str, Tensor], feature: Int[Tensor, " n"], draw: torch.Generator) -> Tensor:
        noise = torch.randn(len(feature), generator=draw)
        return noise.mul_(given["sigma"][feature]).add_(given["mu"][feature]).relu_()


AnyValues = Annotated[
    Uniform | ConstantValue | DiscreteValues | LogNormal | FoldedNormal | RectifiedNormal, Field(discriminator="kind")
]


def above_zero(series: PerFeature, n: int, seed: int, field: str) -> Float[Tensor, " n"]:
    """The numbers of the setting `field`, all above 0."""
    found = numbers(series, n, generator(field, seed), field)
    if float(found.min()) <= 0:
        raise UserError(f"{field}: {float(found.min()):.4g} is not above 0")
    return found.float()
