"""The gated dictionary: a gate decides which latents fire, a magnitude how strongly.

    p = (x - b_dec) W_enc + b_enc                    gate
    z = ReLU(gain p + shift) [p > 0]                 magnitude
    x_hat = z W_dec + b_dec
    loss = sum_d (x_hat - x)^2 + l1 * sum_j ReLU(p_j) + sum_d (ReLU(p) W_dec' + b_dec' - x)^2,  averaged over the batch

where W_dec' and b_dec' are detached. Rajamanoharan et al. 2024, 'Improving dictionary learning
with gated sparse autoencoders', eqs. 6 to 9, with ``gain = exp(r)``. Their magnitude ``exp(r) (x - b_dec) W_enc +
b_mag`` is this one with ``b_mag = shift + gain b_enc``: the same functions with another bias. Decoder rows are held at
norm one. With ``gain = 1``, ``shift = 0`` and without the last term it is the ReLU dictionary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sae.architecture import Architecture, CodeGradients, LatentParameters, PenalisedConfig, raw_units
from sae.dictionary import Dictionary


class Config(PenalisedConfig):
    """Settings of a gated dictionary; `l1` weighs gates in units of the scaled input, summed over latents."""

    kind: Literal["gated"] = "gated"

    def architecture(self, share: float = 1.0) -> GatedArchitecture:
        return GatedArchitecture()


@dataclass(frozen=True, eq=False)
class Gated(Dictionary):
    """``z = ReLU(gain p + shift) [p > 0]``, ``p = (x - b_dec) W_enc + b_enc``."""

    kind: ClassVar[str] = "gated"
    independent_latents: ClassVar[bool] = True

    gain: Float[Tensor, " n_latents"]
    """The factor from a gate's pre-activation to the magnitude."""
    shift: Float[Tensor, " n_latents"]
    """What is added to the scaled pre-activation."""

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch n_latents"]:
        p = self.centred(x) @ self.W_enc + self.b_enc
        return torch.relu(self.gain * p + self.shift) * (p > 0)

    def settings(self) -> dict[str, float | int | str | bool]:
        return {}


KIND = Gated


@dataclass(frozen=True, kw_only=True)
class GatedArchitecture(Architecture):
    """Codes are magnitudes; the gates are decoded too, for the auxiliary loss."""

    @property
    def initial_values(self) -> Mapping[str, float]:
        return {"log_gain": 0.0, "shift": 0.0}

    def activate(self, v: Tensor, parameters: LatentParameters) -> tuple[Tensor, ...]:
        z = torch.relu(parameters["log_gain"].exp() * v + parameters["shift"])
        return torch.where(v > 0, z, torch.zeros_like(z)), v

    def backward(
        self,
        v: Tensor,
        codes: tuple[Tensor, ...],
        h: tuple[Tensor, ...],
        norm: Tensor | None,
        half: Tensor,
        parameters: LatentParameters,
    ) -> CodeGradients:
        gain = parameters["log_gain"].exp()
        by_magnitude = h[0] * (codes[0] > 0)
        pre = by_magnitude * gain + h[1] + half
        return CodeGradients(pre, {"log_gain": by_magnitude * gain * v, "shift": by_magnitude})

    def cost(self, v: Tensor, codes: tuple[Tensor, ...], norm: Tensor | None, parameters: LatentParameters) -> Tensor:
        return v

    def build(self, tensors: Mapping[str, Tensor], input_scale: float) -> Gated:
        return Gated(**raw_units(tensors, input_scale), gain=tensors["log_gain"].exp())
