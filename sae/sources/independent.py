"""Features that fire independently of one another: the simplest model of superposition.

    x = sum_g c_g f_g + noise,    c_g = b_g v_g,    b_g ~ Bernoulli(p_g)

with unit directions f_g drawn uniformly from the sphere. The probabilities p_g are constant, fall as a power of the
rank (Zipf), or fall geometrically; their mean is `probability`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from sae.numerics.fast_random import keep_, uniform
from sae.numerics.seeds import generator
from sae.source import Batch, Source, Split, Truth
from sae.toys.base import ToyConfig, random_directions, with_mean


class Config(ToyConfig):
    """Settings of a source of independent features."""

    kind: Literal["independent"] = "independent"
    n_features: int = Field(gt=0)
    """The number of features."""
    d_in: int = Field(gt=0)
    """The width of the activations."""
    probability: float = Field(gt=0, le=1)
    """The probability to fire, as the mean over features."""
    frequencies: Literal["constant", "zipf", "geometric"] = "constant"
    """How the probability depends on the rank of a feature."""
    exponent: float = Field(1.0, ge=0)
    """For ``zipf``: the probability is proportional to rank^-exponent, with ranks from 1."""
    ratio: float = Field(0.99, gt=0, le=1)
    """For ``geometric``: the probability is proportional to ratio^rank."""
    values: Literal["uniform", "constant", "half_normal", "lognormal", "exponential"] = "uniform"
    """The distribution of the magnitudes of active features, see :func:`draw_values`."""
    noise: float = Field(0.0, ge=0)
    """The standard deviation of Gaussian noise on every coordinate."""

    def tensors(self) -> dict[str, Tensor]:
        rank = torch.arange(self.n_features, dtype=torch.float64)
        shapes = {"constant": rank * 0 + 1, "zipf": (rank + 1) ** -self.exponent, "geometric": self.ratio**rank}
        probability = with_mean(shapes[self.frequencies], self.probability).float()
        directions = random_directions(self.n_features, self.d_in, generator("directions", self.seed))
        return {"directions": directions, "probability": probability}

    def assemble(self, tensors: Mapping[str, Tensor]) -> Source:
        return IndependentSource(self, tensors["directions"], tensors["probability"])


class IndependentSource(Source):
    """Samples of independent features."""

    def __init__(
        self,
        config: Config,
        directions: Float[Tensor, "n_features d_in"],
        probability: Float[Tensor, " n_features"],
    ) -> None:
        self.config = config
        self.directions, self.probability = directions, probability
        self.d_in = directions.shape[1]
        everything = torch.ones(len(directions), dtype=torch.bool)
        self.truth = Truth(directions, everything, probability)

    def batch(self, step: int, size: int, split: Split = "train") -> Batch:
        draw = generator("independent", self.config.seed, split, step)
        shape = (size, len(self.directions))
        codes = keep_(draw_values(self.config.values, shape, draw), self.probability, draw)
        acts = codes @ self.directions
        if self.config.noise:
            acts += self.config.noise * torch.randn(acts.shape, generator=draw)
        return Batch(acts, codes)


def draw_values(name: str, shape: tuple[int, int], draw: torch.Generator) -> Tensor:
    """Draws magnitudes of active features: ``uniform`` U[0, 1], ``constant`` 1, ``half_normal`` |N(0, 1)|,
    ``lognormal`` exp(N(0, 1) / 4) or ``exponential`` Exp(1)."""
    if name == "uniform":
        return uniform(shape, draw)
    if name == "constant":
        return torch.ones(shape)
    if name == "exponential":
        return torch.empty(shape).exponential_(generator=draw)
    normal = torch.randn(shape, generator=draw)
    return normal.abs_() if name == "half_normal" else (normal * 0.25).exp_()
