"""The ReLU dictionary with an L1 penalty, the first sparse autoencoder of the field.

    z = ReLU((x - b_dec) W_enc + b_enc),    x_hat = z W_dec + b_dec
    loss = sum_d (x_hat - x)^2 + l1 * sum_j phi(||W_dec[j]|| z_j),    averaged over the batch

Bricken et al. 2023, 'Towards Monosemanticity'; the summed units and the weight ||W_dec[j]|| are those of
Conerly et al. 2024, 'Update on how we train SAEs'.

Penalties phi, of which all but L1 shrink strong codes less, with a slope of at least one at zero that decreases:

    l1    phi(u) = u
    lp    phi(u) = (u + e)^p - e^p,  e = width / 100; Karvonen et al. 2024, 'Measuring progress in dictionary
          learning', who anneal p from 1 and keep the size of the penalty whenever p changes (`p_anneal`)
    tanh  phi(u) = width tanh(u / width); Jermyn et al. 2024, 'Tanh penalty in dictionary learning'
    log   phi(u) = width log(1 + u / width); Candes, Wakin and Boyd 2008
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from sae.architecture import Architecture, PenalisedConfig, raw_units
from sae.dictionary import Dictionary
from sae.registry import UserError

ANNEALED = 10
"""The number of steps in which p is annealed from 1 to its final value."""


class Config(PenalisedConfig):
    """Settings of a ReLU dictionary; `l1` weighs codes in units of the scaled input, summed over latents."""

    kind: Literal["relu"] = "relu"
    decoder: Literal["unit", "weighted"] = "unit"
    """Whether decoder rows are held at norm one (``"unit"``), or free, as in the 2024 update (``"weighted"``)."""
    penalty: Literal["l1", "lp", "tanh", "log"] = "l1"
    """The penalty phi."""
    p: float = Field(default=0.5, gt=0, le=1)
    """The power of the lp penalty."""
    p_anneal: float = Field(default=0.0, ge=0, le=1)
    """The share of the training steps over which the power is annealed from 1 to `p`; 0 starts at `p`."""
    width: float = Field(default=1.0, gt=0)
    """The size of codes at which the lp, tanh and log penalties bend, in units of the scaled input."""

    @model_validator(mode="after")
    def _only_p_is_annealed(self) -> Config:
        if self.p_anneal and self.penalty != "lp":
            raise UserError(
                f'p_anneal = {self.p_anneal}: penalty = "{self.penalty}" has no p; remove it or set penalty = "lp"'
            )
        return self

    def architecture(self, share: float = 1.0) -> ReluArchitecture:
        done = min(1.0, share / self.p_anneal) if self.p_anneal else 1.0
        p = 1 + (self.p - 1) * int(done * ANNEALED) / ANNEALED
        return ReluArchitecture(unit_rows=self.decoder == "unit", shape=self.penalty, p=p, width=self.width)


@dataclass(frozen=True, eq=False)
class Relu(Dictionary):
    """``z = ReLU((x - b_dec) W_enc + b_enc)``."""

    kind: ClassVar[str] = "relu"
    independent_latents: ClassVar[bool] = True

    @classmethod
    def tied(cls, directions: Float[Tensor, "n_latents d_in"], b_dec: Tensor | None = None) -> Relu:
        """A dictionary with tied weights: ``W_dec`` is `directions`, ``W_enc`` its transpose, `b_enc` zero."""
        bias = torch.zeros(directions.shape[1]) if b_dec is None else b_dec
        return cls(directions.T.contiguous(), directions, torch.zeros(len(directions)), bias)

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch n_latents"]:
        return torch.relu(self.centred(x) @ self.W_enc + self.b_enc)

    def settings(self) -> dict[str, float | int | str | bool]:
        return {}


KIND = Relu


@dataclass(frozen=True, kw_only=True)
class ReluArchitecture(Architecture):
    """Positive pre-activations with a penalty phi."""

    shape: Literal["l1", "lp", "tanh", "log"] = "l1"
    """The penalty, :attr:`Config.penalty`."""
    p: float = 1.0
    """The power of the lp penalty at this point of training."""
    width: float = 1.0
    """The size of codes at which a penalty bends."""

    def penalty(self, u: Tensor) -> Tensor:
        if self.shape == "lp":
            e = self.width / 100
            return (u + e) ** self.p - e**self.p
        if self.shape == "tanh":
            return self.width * torch.tanh(u / self.width)
        return u if self.shape == "l1" else self.width * torch.log1p(u / self.width)

    def slope(self, u: Tensor) -> Tensor | float:
        if self.shape == "lp":
            return self.p * (u + self.width / 100) ** (self.p - 1)
        if self.shape == "tanh":
            return 1 - torch.tanh(u / self.width) ** 2
        return 1.0 if self.shape == "l1" else 1 / (1 + u / self.width)

    def build(self, tensors: Mapping[str, Tensor], input_scale: float) -> Relu:
        return Relu(**raw_units(tensors, input_scale))
