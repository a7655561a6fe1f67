"""An architecture of your own: ReLU with a square-root penalty. `sae.fit(x, RootConfig(n_latents=512, l1=0.1))`.

loss = sum_d (x_hat - x)^2 + l1 sum_j phi(z_j),    phi(u) = sqrt(u + e) - sqrt(e)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sae.architecture import Architecture, PenalisedConfig, raw_units
from sae.dictionaries.relu import Relu


@dataclass(frozen=True, kw_only=True)
class RootArchitecture(Architecture):
    epsilon: float

    def penalty(self, u: Tensor) -> Tensor:
        return torch.sqrt(u + self.epsilon) - self.epsilon**0.5

    def slope(self, u: Tensor) -> Tensor:  # the derivative of the penalty; the training step needs nothing else
        return 0.5 / torch.sqrt(u + self.epsilon)

    def build(self, tensors: Mapping[str, Tensor], input_scale: float) -> Relu:
        return Relu(**raw_units(tensors, input_scale))


class RootConfig(PenalisedConfig):
    kind: Literal["root"] = "root"
    epsilon: float = 0.1
    """Where the penalty bends, in units of the scaled input."""

    def architecture(self, share: float = 1.0) -> RootArchitecture:
        return RootArchitecture(epsilon=self.epsilon)
