"""Features put together from an activity, magnitudes, directions and noise, each with settings of its own.

    x = sum_g c_g f_g + b + noise,    c_g = a_g v_g

with a_g the activity (1 or 0; :mod:`sae.features.activity`, :mod:`sae.features.tree`), v_g the magnitude
(:mod:`sae.features.values`), f_g a unit direction (:mod:`sae.features.directions`) and b a constant. So are made
correlated and anticorrelated sets, trees, exactly k active, Gaussian copulas; any activity goes with any directions.

Elhage et al. 2022, 'Toy Models of Superposition'; Chanin et al. 2024, 'A is for absorption'; Chanin and
Garriga-Alonso 2025, 'Sparse but wrong'; SynthSAEBench, arXiv 2602.14687.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor

from sae.features.activity import Copula, Correlated, Fixed, Independent, OneOf
from sae.features.directions import AnyDirections, Random
from sae.features.series import PerFeature
from sae.features.tree import Tree, generations
from sae.features.values import AnyValues, Uniform, above_zero
from sae.seeds import generator
from sae.source import Batch, Source, Split, Truth
from sae.toy import ToyConfig, random_directions

ROWS_AT_ONCE = 4096
PROBABILITY_BATCHES = 32
"""How many times `ROWS_AT_ONCE` rows are drawn to estimate probabilities that have no closed form."""

AnyActivity = Annotated[Independent | Copula | Correlated | OneOf | Fixed | Tree, Field(discriminator="kind")]


class Config(ToyConfig):
    """Settings. `noise` is the standard deviation of Gaussian noise on every coordinate, `offset` the norm of a
    constant vector of random direction that is added to every row. `importance` is what toy models weight their loss
    by; nothing here depends on it. A list directly in this table is a sweep; inside the nested ones it is a list."""

    kind: Literal["features"] = "features"
    n_features: int = Field(gt=0)
    d_in: int = Field(gt=0)
    activity: AnyActivity
    values: AnyValues = Uniform()
    directions: AnyDirections = Random()
    noise: float = Field(0.0, ge=0)
    offset: float = Field(0.0, ge=0)
    importance: PerFeature | None = None

    @model_validator(mode="after")
    def _possible(self) -> Config:
        self.activity.tensors(self.n_features, self.seed)
        self.directions.check(self.n_features, self.d_in)
        self.values.tensors(self.n_features, self.seed)
        if self.importance is not None:
            above_zero(self.importance, self.n_features, self.seed, "importance")
        return self

    @property
    def provides(self) -> frozenset[str]:
        has_parents = isinstance(self.activity, Tree) and bool((self.activity.layout(self.n_features) >= 0).any())
        return super().provides | ({"parents"} if has_parents else set())

    def tensors(self) -> dict[str, Tensor]:
        n, seed = self.n_features, self.seed
        activity, values = self.activity.tensors(n, seed), self.values.tensors(n, seed)
        tensors = {"directions": self.directions.rows(n, self.d_in, generator("directions", seed))}
        if self.importance is not None:
            tensors["importance"] = above_zero(self.importance, n, seed, "importance")
        if self.offset:
            tensors["offset"] = self.offset * random_directions(1, self.d_in, generator("offset", seed))[0]
        tensors |= {f"activity.{name}": t for name, t in activity.items()}
        tensors |= {f"values.{name}": t for name, t in values.items()}
        tensors = {name: t.contiguous() for name, t in tensors.items()}
        return tensors | {"probability": self.probability(Law.of(self, tensors))}

    def probability(self, law: Law) -> Float[Tensor, " n_features"]:
        """The share of rows in which each feature is active: exact, or of a fixed draw where coins correlate."""
        if "probability" in law.activity:
            return law.activity["probability"] * law.positive_so_far()
        draw = generator("probability", "estimate", self.seed)
        batches = (law.codes(ROWS_AT_ONCE, draw) for _ in range(PROBABILITY_BATCHES))
        return sum((codes.count_nonzero(0) for codes in batches), torch.zeros(())) / (
            ROWS_AT_ONCE * PROBABILITY_BATCHES
        )

    def assemble(self, tensors: Mapping[str, Tensor]) -> Source:
        return Features(self, tensors)


@dataclass(frozen=True)
class Law:
    """What codes are drawn from: the settings, and the tensors that they and the seed determine."""

    config: Config
    activity: Mapping[str, Tensor]
    values: Mapping[str, Tensor]
    levels: list[tuple[Int[Tensor, " _"], Int[Tensor, " _"]]]
    """The children and their parents, level by level, down from the children of roots."""

    @classmethod
    def of(cls, config: Config, tensors: Mapping[str, Tensor]) -> Law:
        activity, values = (
            {name.removeprefix(part): t for name, t in tensors.items() if name.startswith(part)}
            for part in ("activity.", "values.")
        )
        parents = activity.get("parents")
        levels = [] if parents is None else [(level, parents[level]) for level in generations(parents)[1:]]
        return cls(config, activity, values, levels)

    def codes(self, size: int, draw: torch.Generator) -> Float[Tensor, "size n_features"]:
        """Coefficients of `size` rows; magnitudes are drawn for active features alone."""
        codes = self.config.activity.draw(self.activity, size, draw)
        row, feature = codes.nonzero(as_tuple=True)
        codes[row, feature] = self.config.values.draw(self.values, feature, draw)
        scaled = isinstance(self.config.activity, Tree) and self.config.activity.scaled
        for child, parent in self.levels:
            above = codes[:, parent]
            # A parent whose magnitude was cut off at 0 is silent, and silences its children.
            codes[:, child] *= above / self.values["mean"][parent] if scaled else above > 0
        return codes

    def positive_so_far(self) -> Float[Tensor, " n_features"]:
        """The probability that neither a feature's magnitude nor an ancestor's is cut off at 0."""
        positive = self.values.get("positive", torch.ones(self.config.n_features)).clone()
        for child, parent in self.levels:
            positive[child] *= positive[parent]
        return positive


class Features(Source):
    """Rows of such features."""

    def __init__(self, config: Config, tensors: Mapping[str, Tensor]) -> None:
        self.config, self.law = config, Law.of(config, tensors)
        self.directions: Float[Tensor, "n_features d_in"] = tensors["directions"]
        self.offset = tensors.get("offset")
        self.d_in = self.directions.shape[1]
        self.truth = Truth(
            self.directions,
            self.directions.norm(dim=1) > 0,
            tensors["probability"],
            tensors.get("importance"),
            self.law.activity.get("parents"),
            self.offset,
        )

    def batch(self, step: int, size: int, split: Split = "train") -> Batch:
        draw = generator("features", self.config.seed, split, step)
        codes = self.law.codes(size, draw)
        acts = codes @ self.directions
        if self.offset is not None:
            acts += self.offset
        if self.config.noise:
            acts += self.config.noise * torch.randn(acts.shape, generator=draw)
        return Batch(acts, codes)
