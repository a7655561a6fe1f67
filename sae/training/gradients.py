"""What a step of dense products makes: sums over blocks of rows, and of those the gradient and what is told of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae.training.aux_losses import DeadLatentGradient
from sae.training.kernels import Latents
from sae.training.stack import Stack


@dataclass
class Terms:
    """What a step leaves behind, one entry a member. `l0` is the mean number of active latents; it and `penalty`, and
    so `loss`, are there on the dense path only when it is asked to count. `auxiliary` is what the loss has beside the
    error and the penalty, `batch_threshold` the least code that a selection over the batch kept."""

    fired: Bool[Tensor, "n_members n_latents"]
    l0: Float[Tensor, " n_members"]
    mse: Float[Tensor, " n_members"]
    penalty: Float[Tensor, " n_members"]
    auxiliary: Float[Tensor, " n_members"]
    batch_threshold: Float[Tensor, " n_members"]

    @classmethod
    def empty(cls, stack: Stack) -> Terms:
        n_members, n_latents, _ = stack.W_dec.shape
        fired = torch.zeros(n_members, n_latents, dtype=torch.bool, device=stack.W_dec.device)
        return cls(fired, *stack.W_dec.new_zeros(5, n_members))

    @property
    def loss(self) -> Float[Tensor, " n_members"]:
        return self.mse + self.penalty + self.auxiliary

    def part(self, first: int, last: int) -> Terms:
        """Those of some members in a row, as views."""
        return Terms(*(own[first:last] for own in vars(self).values()))


@dataclass
class Gradient:
    """The gradient of all parameters of a stack; the latents' rows lie in buffers that the next step overwrites."""

    latents: Latents
    latent_parameters: dict[str, Float[Tensor, "n_members n_latents"]]
    b_dec: Float[Tensor, "n_members d_in"]


@dataclass
class BatchSums:
    """What the blocks of a batch add up to; the two products lie in buffers that the first block overwrites."""

    to_enc: Float[Tensor, "n_members n_latents d_in"]
    to_dec: Float[Tensor, "n_members n_latents d_in"]
    r: Float[Tensor, "n_members d_in"]
    latent_parameters: dict[str, Float[Tensor, "n_members n_latents"]]
    z: Float[Tensor, "n_members n_latents"]
    g: Float[Tensor, "n_members n_latents"]
    in_norm: Float[Tensor, "n_members n_latents"]
    l0: Float[Tensor, " n_members"]
    square: Float[Tensor, " n_members"]
    cost: Float[Tensor, " n_members"]
    auxiliary: Float[Tensor, " n_members"]

    @classmethod
    def of(cls, stack: Stack, to_enc: Tensor, to_dec: Tensor) -> BatchSums:
        like = stack.b_enc
        own = {name: torch.zeros_like(like) for name in stack.latent_parameters}
        per_latent, per_member = like.new_zeros(3, *like.shape), like.new_zeros(4, len(like))
        return cls(to_enc, to_dec, torch.zeros_like(stack.b_dec), own, *per_latent, *per_member)

    def add_dead(self, i: int, more: DeadLatentGradient) -> None:
        """Adds what the dead latents of member i learn."""
        self.to_dec[i].index_add_(0, more.latent, more.z_r)
        self.to_enc[i].index_add_(0, more.latent, more.g_x)
        self.g[i].index_add_(0, more.latent, more.g)
        for name, by_latent in more.latent_parameters.items():
            self.latent_parameters[name][i].index_add_(0, more.latent, by_latent)
        self.auxiliary[i] += more.loss

    def write_terms(self, terms: Terms, batch: int, coefficient: Tensor, value: Tensor, bar: Tensor) -> None:
        """The terms; `value` is the penalty where it is not its weighted cost (NaN where it is)."""
        torch.gt(self.z, 0, out=terms.fired)
        terms.l0.copy_(self.l0 / batch)
        terms.mse.copy_(self.square / batch)
        terms.penalty.copy_(torch.where(value.isnan(), coefficient * self.cost / batch, value))
        terms.auxiliary.copy_(self.auxiliary / batch)
        terms.batch_threshold.copy_(bar)

    def gradient(self, stack: Stack, batch: int, coefficient: Tensor, norm: Tensor | None) -> Gradient:
        """The gradients, in the memory of the sums."""
        scale = 2 / batch
        to_bias = self.g.mul_(scale)
        self.to_dec.mul_(scale)
        self.to_enc.mul_(scale).addcmul_(to_bias[:, :, None], stack.subtracted[:, None, :], value=-1)
        if norm is not None:
            along = coefficient[:, None] * self.in_norm / norm / batch
            self.to_dec.addcmul_(along[:, :, None], stack.W_dec)
        of_b_dec = scale * self.r - stack.along_encoder(to_bias)
        latents = Latents(self.to_enc.flatten(0, 1), self.to_dec.flatten(0, 1), to_bias.flatten())
        return Gradient(latents, {name: total.mul_(scale) for name, total in self.latent_parameters.items()}, of_b_dec)
