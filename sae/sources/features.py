"""Features built from separate settings of activity, magnitudes, directions and noise.

    x = sum_g c_g f_g + b + noise,    c_g = a_g v_g

with a_g the activity (1 or 0; :mod:`sae.toys.features.activity`, :mod:`sae.toys.features.tree`), v_g the magnitude
(:mod:`sae.toys.features.values`), f_g a unit direction (:mod:`sae.toys.features.directions`) and b a constant. Any
activity can be combined with any directions: correlated and anticorrelated sets, trees, exactly k active features,
Gaussian copulas.

Elhage et al. 2022, 'Toy Models of Superposition'; Chanin et al. 2024, 'A is for absorption'; Chanin and
Garriga-Alonso 2025, 'Sparse but wrong'; SynthSAEBench, arXiv 2602.14687.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from sae.numerics.seeds import generator
from sae.source import Batch, Source, Split, Truth
from sae.toys.base import ToyConfig, check_number_of_features, random_directions
from sae.toys.features.directions import AnyDirections, RandomDirections
from sae.toys.features.law import AnyActivity, Law
from sae.toys.features.series import PerFeature
from sae.toys.features.tree import Tree
from sae.toys.features.values import AnyValues, Uniform, above_zero


class Config(ToyConfig):
    """Settings of a source of features. A list directly in this table is a sweep; in the nested tables it is a list."""

    kind: Literal["features"] = "features"
    n_features: int = Field(gt=0)
    """The number of features."""
    d_in: int = Field(gt=0)
    """The width of the activations."""
    activity: AnyActivity
    """Which features are active together."""
    values: AnyValues = Uniform()
    """The distribution of the magnitudes of active features."""
    directions: AnyDirections = RandomDirections()
    """The directions of the features."""
    noise: float = Field(0.0, ge=0)
    """The standard deviation of Gaussian noise on every coordinate."""
    offset: float = Field(0.0, ge=0)
    """The norm of a constant vector of random direction that is added to every sample."""
    importance: PerFeature | None = None
    """The weight of each feature in the loss of toy models; it does not affect the activations."""

    @model_validator(mode="after")
    def _possible(self) -> Config:
        check_number_of_features(self.n_features)  # first, because the checks below draw every feature
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
        return tensors | {"probability": self.law(tensors).probability(self.seed)}

    def law(self, tensors: Mapping[str, Tensor]) -> Law:
        """The distribution of the codes, from the tensors of a source."""
        parts = (
            {name.removeprefix(part): t for name, t in tensors.items() if name.startswith(part)}
            for part in ("activity.", "values.")
        )
        return Law.from_tensors(self.activity, self.values, *parts)

    def assemble(self, tensors: Mapping[str, Tensor]) -> Source:
        return Features(self, tensors)


class Features(Source):
    """Samples of such features."""

    def __init__(self, config: Config, tensors: Mapping[str, Tensor]) -> None:
        self.config, self.law = config, config.law(tensors)
        self.directions: Float[Tensor, "n_features d_in"] = tensors["directions"]
        self.offset = tensors.get("offset")
        self.d_in = self.directions.shape[1]
        self.truth = Truth(
            self.directions,
            self.directions.norm(dim=1) > 0,
            tensors["probability"],
            tensors.get("importance"),
            self.law.parents,
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
