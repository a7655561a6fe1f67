"""Gradients of the auxiliary losses for dead latents, which get no gradient from the main loss.

With :class:`~sae.architecture.AuxK` the largest dead pre-activations of a sample reconstruct the residual of the live
latents; with :class:`~sae.architecture.PreActivationLoss` pre-activations are raised to the threshold. Both are dense
products over the dead latents alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae.architecture import Architecture, AuxK, Largest, PreActivationLoss
from sae.training.kernels.reference import select_
from sae.training.stack import Stack


@dataclass(frozen=True)
class DeadLatentGradient:
    """Half the gradient of an auxiliary loss for the dead latents of one member, summed over the batch."""

    latent: Int[Tensor, " dead"]
    """The indices of the dead latents."""
    z_r: Float[Tensor, "dead d_in"]
    """``z^T r``, for the decoder."""
    g_x: Float[Tensor, "dead d_in"]
    """``g^T x``, for the encoder."""
    g: Float[Tensor, " dead"]
    """The gradients in the pre-activations."""
    latent_parameters: Mapping[str, Float[Tensor, " dead"]]
    """The gradients in the architecture's per-latent parameters."""
    loss: Tensor
    """The auxiliary loss, a scalar."""


def dead_latent_gradient(
    stack: Stack,
    architecture: Architecture,
    x: Float[Tensor, "batch d_in"],
    residual: Float[Tensor, "batch d_in"],
    dead: Bool[Tensor, " n_latents"],
) -> DeadLatentGradient | None:
    """The auxiliary gradient for a stack of one, given ``residual = x_hat - x``; None without dead latents or loss."""
    latent, loss = dead.nonzero()[:, 0], architecture.dead_latent_loss
    if loss is None or not len(latent):
        return None
    W_enc, W_dec = stack.W_enc[0, latent], stack.W_dec[0, latent]
    pre = torch.addmm(stack.b_enc[0, latent], x - stack.subtracted[0], W_enc.T)
    if isinstance(loss, AuxK):
        return _aux_k(loss, latent, pre, W_dec, x, residual)
    return _pre_activation_loss(loss, latent, pre, stack.latent_parameters["threshold"][0, latent], x)


def _aux_k(
    settings: AuxK, latent: Tensor, pre: Tensor, W_dec: Tensor, x: Tensor, residual: Tensor
) -> DeadLatentGradient:
    k = settings.k or x.shape[1] // 2
    z = select_(pre, Largest(k))
    r = torch.addmm(residual, z, W_dec)
    weight = settings.coefficient * min(1.0, len(latent) / k)
    loss = weight * r.square().sum()
    r *= weight
    g = (r @ W_dec.T).masked_fill_(z == 0, 0)
    return DeadLatentGradient(latent, z.T @ r, g.T @ x, g.sum(0), {}, loss)


def _pre_activation_loss(
    settings: PreActivationLoss, latent: Tensor, pre: Tensor, threshold: Tensor, x: Tensor
) -> DeadLatentGradient:
    below = threshold - pre
    g = (below > 0).to(pre.dtype) * (-settings.coefficient / 2)
    loss = settings.coefficient * below.relu().sum()
    g_x, g_sum = g.T @ x, g.sum(0)
    return DeadLatentGradient(latent, torch.zeros_like(g_x), g_x, g_sum, {"threshold": -g_sum}, loss)
