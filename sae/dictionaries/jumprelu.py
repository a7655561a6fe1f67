"""The JumpReLU dictionary: a threshold per latent, learned through a window around it.

    z = pre [pre > threshold],    pre = (x - b_dec) W_enc + b_enc,    x_hat = z W_dec + b_dec
    loss = sum_d (x_hat - x)^2 + P,    averaged over the batch

    step       P = l0_coefficient * L0,   L0 = sum_j [pre_j > threshold_j]
    tanh       P = l0_coefficient * sum_j tanh(sharpness z_j)
    quadratic  P = l0_coefficient * (mean L0 / l0 - 1)^2

Rajamanoharan et al. 2024, 'Jumping ahead', eqs. 11 and 12: with the window ``K = [|pre - threshold| < bandwidth / 2]``,

    dz/dthreshold = -threshold / bandwidth K          d[pre > threshold]/dthreshold = -1 / bandwidth K

and the window gives `pre` no gradient, unless ``through_input``, which passes the penalty's jump to `pre` with the
opposite sign (Conerly et al. 2025). The threshold itself is trained, not its logarithm, which Adam hardly moves.
Decoder rows are held at norm one. With a threshold of zero it is the ReLU dictionary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from sae.architecture import (
    Architecture,
    CodeGradients,
    DictionaryConfig,
    LatentParameters,
    PreActivationLoss,
    exactly_one,
    raw_units,
)
from sae.dictionary import Dictionary
from sae.numerics.thresholding import above
from sae.registry import UserError


class Config(DictionaryConfig):
    """Settings of a JumpReLU dictionary: set `l0` or `l0_coefficient`."""

    kind: Literal["jumprelu"] = "jumprelu"
    l0_coefficient: float | None = Field(default=None, ge=0)
    """The weight of the penalty; 1 by default with ``penalty = "quadratic"``."""
    l0: float | None = Field(default=None, gt=0)
    """The target for the mean number of active latents, reached by a controller that sets the weight; with
    ``penalty = "quadratic"``, the target in the penalty itself."""
    penalty: Literal["step", "tanh", "quadratic"] = "step"
    """The penalty P of the loss."""
    threshold: float = Field(default=0.3, ge=0)
    """The initial threshold of every latent, in units of the scaled input."""
    bandwidth: float = Field(default=0.7, gt=0)
    """The width of the window around the threshold, in units of the scaled input."""
    sharpness: float = Field(default=1.0, gt=0)
    """The factor of the codes in the tanh penalty."""
    through_input: bool = False
    """Whether the penalty's gradient reaches pre-activations in the window too."""
    pre_act: float = Field(default=0.0, ge=0)
    """The weight of the auxiliary loss that raises dead latents to their threshold (:class:`PreActivationLoss`)."""

    member_axes: ClassVar[tuple[str, ...]] = ("l0_coefficient", "l0")

    @model_validator(mode="before")
    @classmethod
    def _quadratic_has_a_weight(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("penalty") == "quadratic":
            return {"l0_coefficient": 1.0, **data}
        return data

    @model_validator(mode="after")
    def _one_target(self) -> Config:
        if self.penalty != "quadratic":
            exactly_one("l0_coefficient", self.l0_coefficient, "l0", self.l0)
        elif self.l0 is None:
            raise UserError('penalty = "quadratic": l0 is not set; set it to the target number of active latents')
        return self

    def architecture(self, share: float = 1.0) -> JumpReLUArchitecture:
        dead_latent_loss = PreActivationLoss(self.pre_act) if self.pre_act else None
        return JumpReLUArchitecture(
            shape=self.penalty,
            start=self.threshold,
            bandwidth=self.bandwidth,
            sharpness=self.sharpness,
            through_input=self.through_input,
            dead_latent_loss=dead_latent_loss,
        )

    @property
    def coefficient(self) -> float:
        return 1.0 if self.l0_coefficient is None else self.l0_coefficient

    @property
    def target_l0(self) -> float | None:
        return self.l0

    @property
    def controlled(self) -> bool:
        return self.l0 is not None and self.penalty != "quadratic"

    @property
    def counts(self) -> bool:
        return True


@dataclass(frozen=True, eq=False)
class JumpReLU(Dictionary):
    """``z = pre [pre > threshold]``."""

    kind: ClassVar[str] = "jumprelu"
    independent_latents: ClassVar[bool] = True

    threshold: Float[Tensor, " n_latents"]
    """The value that a pre-activation must exceed to be a code."""

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch n_latents"]:
        return above(self.centred(x) @ self.W_enc + self.b_enc, self.threshold)

    def settings(self) -> dict[str, float | int | str | bool]:
        return {}


KIND = JumpReLU


@dataclass(frozen=True, kw_only=True)
class JumpReLUArchitecture(Architecture):
    """A threshold per latent; the cutoff is the lower end of the window."""

    shape: Literal["step", "tanh", "quadratic"]
    """The penalty, :attr:`Config.penalty`."""
    start: float
    """The initial threshold."""
    bandwidth: float
    """The width of the window."""
    sharpness: float
    """The factor of the codes in the tanh penalty."""
    through_input: bool
    """Whether the penalty's gradient reaches pre-activations in the window."""

    @property
    def initial_values(self) -> Mapping[str, float]:
        return {"threshold": self.start}

    @property
    def constant_rate(self) -> bool:
        return True

    @property
    def needs_l0(self) -> bool:
        return self.shape == "quadratic"

    def cutoff(self, parameters: LatentParameters) -> Tensor:
        return parameters["threshold"] - self.bandwidth / 2

    def _pre(self, v: Tensor, parameters: LatentParameters) -> Tensor:
        return v + self.cutoff(parameters)

    def activate(self, v: Tensor, parameters: LatentParameters) -> tuple[Tensor, ...]:
        # Above the cutoff by half the bandwidth is above the threshold.
        return (torch.where(v > self.bandwidth / 2, self._pre(v, parameters), torch.zeros_like(v)),)

    def backward(
        self,
        v: Tensor,
        codes: tuple[Tensor, ...],
        h: tuple[Tensor, ...],
        norm: Tensor | None,
        half: Tensor,
        parameters: LatentParameters,
    ) -> CodeGradients:
        active = v > self.bandwidth / 2
        window = (v < self.bandwidth) / self.bandwidth
        by_z = h[0]
        if self.shape == "tanh":
            by_z = by_z + half * self.sharpness / torch.cosh(self.sharpness * codes[0]) ** 2
            by_jump = window * parameters["threshold"] * by_z
            by_input = torch.zeros_like(v)
        else:
            by_input = window * half
            by_jump = window * parameters["threshold"] * by_z + by_input
        pre = by_z * active
        return CodeGradients(pre + by_input if self.through_input else pre, {"threshold": -by_jump})

    def cost(self, v: Tensor, codes: tuple[Tensor, ...], norm: Tensor | None, parameters: LatentParameters) -> Tensor:
        if self.shape == "tanh":
            return torch.tanh(self.sharpness * codes[0])
        return (v > self.bandwidth / 2).to(v.dtype)

    def penalty_weight(self, coefficient: Tensor, l0: Tensor, target_l0: Tensor) -> tuple[Tensor, Tensor]:
        if self.shape != "quadratic":
            return super().penalty_weight(coefficient, l0, target_l0)
        excess = l0 / target_l0 - 1
        return 2 * coefficient * excess / target_l0, coefficient * excess**2

    def constrain_(self, parameters: LatentParameters) -> None:
        parameters["threshold"].clamp_(min=0)

    def build(self, tensors: Mapping[str, Tensor], input_scale: float) -> JumpReLU:
        return JumpReLU(**raw_units(tensors, input_scale))
