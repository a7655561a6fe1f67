"""The ReLU dictionary with an L1 penalty: the sparse autoencoder that the field began with.

    z = ReLU((x - b_dec) W_enc + b_enc),    x_hat = z W_dec + b_dec
    loss = sum_d (x_hat - x)^2 + l1 * sum_j ||W_dec[j]|| z_j,    averaged over the batch

Bricken et al. 2023, 'Towards Monosemanticity'; the summed units and the weight ||W_dec[j]|| are those of
Conerly et al. 2024, 'Update on how we train SAEs'. ``decoder = "unit"`` holds the rows of W_dec at norm one,
so that the weight is one; ``decoder = "weighted"`` leaves them free, as in the 2024 update.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from sae.dictionary import Dictionary
from sae.kernels import Positive, Selection
from sae.stack import Architecture, DictionaryConfig, raw_units


class Config(DictionaryConfig):
    """Settings of a ReLU dictionary; `l1` is in summed units of the scaled input."""

    kind: Literal["relu"] = "relu"
    l1: float = Field(ge=0)
    decoder: Literal["unit", "weighted"] = "unit"

    member_axes: ClassVar[tuple[str, ...]] = ("l1",)

    def architecture(self) -> ReluArchitecture:
        return ReluArchitecture(unit_rows=self.decoder == "unit")

    @property
    def coefficient(self) -> float:
        return self.l1


@dataclass(frozen=True, eq=False)
class Relu(Dictionary):
    """``z = ReLU((x - b_dec) W_enc + b_enc)``."""

    kind: ClassVar[str] = "relu"

    @classmethod
    def tied(cls, directions: Float[Tensor, "n_latents d_in"], b_dec: Tensor | None = None) -> Relu:
        """Directions read by their own projections: ``W_dec`` = `directions`, ``W_enc`` its transpose."""
        zero = torch.zeros(directions.shape[1]) if b_dec is None else b_dec
        return cls(directions.T.contiguous(), directions, torch.zeros(len(directions)), zero)

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch n_latents"]:
        return torch.relu((x - self.b_dec) @ self.W_enc + self.b_enc)

    def settings(self) -> dict[str, float | int | str | bool]:
        return {}


KIND = Relu
POSITIVE = Positive()


@dataclass(frozen=True)
class ReluArchitecture(Architecture):
    """What is ReLU's and L1's own."""

    unit_rows: bool
    selection: Selection = POSITIVE

    def penalty(self, u: Tensor) -> Tensor:
        return u

    def slope(self, u: Tensor) -> float:
        return 1.0

    def build(self, tensors: Mapping[str, Tensor], input_scale: float) -> Relu:
        return Relu(**raw_units(tensors, input_scale))
