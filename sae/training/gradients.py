"""Inputs, accumulators, gradients and logged terms of a training step."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae.numerics.processes import Processes
from sae.training.aux_losses import DeadLatentGradient
from sae.training.kernels import Adam, Latents
from sae.training.stack import Stack


@dataclass
class Terms:
    """The logged terms of a step. On the dense path `l0` and `penalty`, and so `loss`, are filled in only on request
    (:attr:`StepInputs.count`)."""

    fired: Bool[Tensor, "n_members n_latents"]
    """Whether a latent was active on any sample of the batch."""
    frequency: Float[Tensor, "n_members n_latents"]
    """The share of the batch on which a latent was active, where latents are sorted by it; zero elsewhere."""
    l0: Float[Tensor, " n_members"]
    """The mean number of active latents."""
    mse: Float[Tensor, " n_members"]
    """The squared error summed over `d_in`, averaged over the batch (and over levels)."""
    penalty: Float[Tensor, " n_members"]
    """The weighted penalty, averaged over the batch."""
    auxiliary: Float[Tensor, " n_members"]
    """The rest of the loss."""
    batch_threshold: Float[Tensor, " n_members"]
    """The smallest code that a selection over the batch kept."""
    first_threshold: Float[Tensor, " n_members"]
    """The smallest pre-activation that the first of two selections kept; zero where there is one."""

    @classmethod
    def empty(cls, stack: Stack) -> Terms:
        n_members, n_latents, _ = stack.W_dec.shape
        fired = torch.zeros(n_members, n_latents, dtype=torch.bool, device=stack.W_dec.device)
        return cls(fired, torch.zeros_like(stack.b_enc), *stack.W_dec.new_zeros(6, n_members))

    @property
    def loss(self) -> Float[Tensor, " n_members"]:
        return self.mse + self.penalty + self.auxiliary

    def part(self, first: int, last: int) -> Terms:
        """The terms of members `first` to `last`, as views."""
        return Terms(*(term[first:last] for term in vars(self).values()))


@dataclass(frozen=True)
class StepInputs:
    """Inputs of a training step of some members, and the terms that it fills in."""

    x: Float[Tensor, "batch d_in"]
    """The samples that are encoded."""
    y: Float[Tensor, "batch d_in"]
    """The target of the reconstruction; `x` itself for autoencoders."""
    adam: Adam
    """The step of Adam."""
    coefficient: Float[Tensor, " n_members"]
    """The weight of each member's penalty."""
    target_l0: Float[Tensor, " n_members"]
    """Each member's target for the mean number of active latents; NaN without one."""
    terms: Terms
    """The terms of the step, overwritten in place."""
    dead: Bool[Tensor, "n_members n_latents"] | None = None
    """The latents that the auxiliary loss trains; None for none."""
    count: bool = True
    """Whether the terms `l0` and `penalty` are needed."""

    def part(self, first: int, last: int) -> StepInputs:
        """The inputs of members `first` to `last`, as views."""
        return replace(
            self,
            coefficient=self.coefficient[first:last],
            target_l0=self.target_l0[first:last],
            terms=self.terms.part(first, last),
            dead=None if self.dead is None else self.dead[first:last],
        )


@dataclass
class Gradient:
    """The gradient of all parameters of a stack."""

    latents: Latents
    """The gradients of the weights and `b_enc`, in buffers that the next step overwrites."""
    latent_parameters: dict[str, Float[Tensor, "n_members n_latents"]]
    """The gradients of the architecture's per-latent parameters."""
    b_dec: Float[Tensor, "n_members d_in"]
    """The gradient of the decoder bias."""

    def add_along_encoder_(self, stack: Stack, group: Processes) -> None:
        """Adds to the gradient of `b_dec` its part through the encoders of all processes of the group."""
        along = stack.along_encoder(self.latents.b_enc.view_as(stack.b_enc))
        group.sum_(along)
        self.b_dec -= along


@dataclass
class BatchSums:
    """Sums over the blocks of a batch; the two matrices are buffers that the first block overwrites."""

    to_enc: Float[Tensor, "n_members n_latents d_in"]
    """``g^T x``."""
    to_dec: Float[Tensor, "n_members n_latents d_in"]
    """``z^T r``."""
    r: Float[Tensor, "n_members d_in"]
    """The residuals."""
    latent_parameters: dict[str, Float[Tensor, "n_members n_latents"]]
    """The gradients in the architecture's per-latent parameters."""
    z: Float[Tensor, "n_members n_latents"]
    """The codes."""
    g: Float[Tensor, "n_members n_latents"]
    """The gradients in the pre-activations."""
    in_norm: Float[Tensor, "n_members n_latents"]
    """``z phi'(norm z)``, the gradient of the penalty in the decoder norm."""
    active: Float[Tensor, "n_members n_latents"]
    """The number of samples on which a latent is active, where latents are sorted by it."""
    l0: Float[Tensor, " n_members"]
    """The number of active latents."""
    square: Float[Tensor, " n_members"]
    """The squared error of the last level."""
    cost: Float[Tensor, " n_members"]
    """The unweighted penalty."""
    auxiliary: Float[Tensor, " n_members"]
    """The rest of the loss."""

    @classmethod
    def of(cls, stack: Stack, to_enc: Tensor, to_dec: Tensor) -> BatchSums:
        """Zero sums for `stack`, in the buffers `to_enc` and `to_dec`."""
        like = stack.b_enc
        latent_parameters = {name: torch.zeros_like(like) for name in stack.latent_parameters}
        per_latent, per_member = like.new_zeros(4, *like.shape), like.new_zeros(4, len(like))
        return cls(to_enc, to_dec, torch.zeros_like(stack.b_dec), latent_parameters, *per_latent, *per_member)

    def add_dead(self, i: int, more: DeadLatentGradient) -> None:
        """Adds the auxiliary gradient of the dead latents of member i."""
        self.to_dec[i].index_add_(0, more.latent, more.z_r)
        self.to_enc[i].index_add_(0, more.latent, more.g_x)
        self.g[i].index_add_(0, more.latent, more.g)
        for name, by_latent in more.latent_parameters.items():
            self.latent_parameters[name][i].index_add_(0, more.latent, by_latent)
        self.auxiliary[i] += more.loss

    def write_terms(self, inputs: StepInputs, value: Tensor, batch_threshold: Tensor) -> None:
        """Fills in the terms; `value` is the penalty where it is not its weighted cost (NaN where it is)."""
        terms, batch, coefficient = inputs.terms, len(inputs.x), inputs.coefficient
        torch.gt(self.z, 0, out=terms.fired)
        terms.frequency.copy_(self.active / batch)
        terms.l0.copy_(self.l0 / batch)
        terms.mse.copy_(self.square / batch)
        terms.penalty.copy_(torch.where(value.isnan(), coefficient * self.cost / batch, value))
        terms.auxiliary.copy_(self.auxiliary / batch)
        terms.batch_threshold.copy_(batch_threshold)

    def gradient(self, stack: Stack, batch: int, coefficient: Tensor, norm: Tensor | None) -> Gradient:
        """The gradients, in the memory of the sums; that of `b_dec` lacks the part of the encoder."""
        scale = 2 / batch
        to_bias = self.g.mul_(scale)
        self.to_dec.mul_(scale)
        self.to_enc.mul_(scale).addcmul_(to_bias[:, :, None], stack.subtracted[:, None, :], value=-1)
        if norm is not None:
            along = coefficient[:, None] * self.in_norm / norm / batch
            self.to_dec.addcmul_(along[:, :, None], stack.W_dec)
        latents = Latents(self.to_enc.flatten(0, 1), self.to_dec.flatten(0, 1), to_bias.flatten())
        by_name = {name: total.mul_(scale) for name, total in self.latent_parameters.items()}
        return Gradient(latents, by_name, scale * self.r)
