"""Random directions: the null model that every score must beat."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sae.baseline import BaselineConfig
from sae.dictionaries.relu import Relu
from sae.numerics.fit_cost import FitCost
from sae.numerics.seeds import generator
from sae.source import Source
from sae.toys.base import random_directions


class Config(BaselineConfig):
    """Unit vectors drawn uniformly from the sphere, as the directions of a tied ReLU dictionary."""

    kind: Literal["random"] = "random"
    n_latents: int = Field(gt=0)
    """Number of directions."""

    def fit(self, source: Source, seed: int) -> Relu:
        directions = random_directions(self.n_latents, source.d_in, generator("random", seed))
        return Relu.tied(directions).with_card(**FitCost().card_entry())
