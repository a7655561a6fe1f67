"""The neuron basis, each neuron as a positive and a negative latent: an exact identity.

z = [ReLU(x), ReLU(-x)],    x_hat = z_+ - z_- = x
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch

from sae.baseline import BaselineConfig
from sae.dictionaries.relu import Relu
from sae.numerics.fit_cost import FitCost
from sae.source import Source


class Config(BaselineConfig):
    """The neuron basis, ``2 d_in`` latents; there are no settings."""

    kind: Literal["neurons"] = "neurons"

    seeded: ClassVar[bool] = False

    def fit(self, source: Source, seed: int) -> Relu:
        basis = torch.eye(source.d_in)
        return Relu.tied(torch.cat([basis, -basis])).with_card(**FitCost().card_entry())
