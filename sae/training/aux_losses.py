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
from sae.numerics.processes import ALONE, Processes
from sae.training.selection import select_among_
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
    group: Processes = ALONE,
) -> DeadLatentGradient | None:
    """The auxiliary gradient for a stack of one, given ``residual = x_hat - x``; None without dead latents or loss.

    `group` has the other latents, of which some may be dead where none is here.
    """
    latent, loss = dead.nonzero()[:, 0], architecture.dead_latent_loss
    if loss is None:
        return None
    n_dead = int(group.total(float(len(latent))))
    if not n_dead:
        return None
    W_enc, W_dec = stack.W_enc[0, latent], stack.W_dec[0, latent]
    pre = torch.addmm(stack.b_enc[0, latent], x - stack.subtracted[0], W_enc.T)
    if isinstance(loss, AuxK):
        return _aux_k(loss, latent, n_dead, pre, W_dec, x, residual, group)
    return _pre_activation_loss(loss, latent, pre, stack.latent_parameters["threshold"][0, latent], x, group)


def _aux_k(
    settings: AuxK,
    latent: Tensor,
    n_dead: int,
    pre: Tensor,
    W_dec: Tensor,
    x: Tensor,
    residual: Tensor,
    group: Processes,
) -> DeadLatentGradient:
    k = settings.k or x.shape[1] // 2
    z = select_among_(pre, Largest(k), group)
    r = torch.addmm(residual, z, W_dec) if group.is_first else z @ W_dec
    group.sum_(r)
    weight = settings.coefficient * min(1.0, n_dead / k)
    loss = weight * r.square().sum()
    r *= weight
    g = (r @ W_dec.T).masked_fill_(z == 0, 0)
    return DeadLatentGradient(latent, z.T @ r, g.T @ x, g.sum(0), {}, loss)


def _pre_activation_loss(
    settings: PreActivationLoss, latent: Tensor, pre: Tensor, threshold: Tensor, x: Tensor, group: Processes
) -> DeadLatentGradient:
    below = threshold - pre
    g = (below > 0).to(pre.dtype) * (-settings.coefficient / 2)
    loss = settings.coefficient * below.relu().sum()
    group.sum_(loss)
    g_x, g_sum = g.T @ x, g.sum(0)
    return DeadLatentGradient(latent, torch.zeros_like(g_x), g_x, g_sum, {"threshold": -g_sum}, loss)
