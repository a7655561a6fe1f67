"""What dead latents learn from the rows in which they do not fire.

Their own gradient is zero. With :class:`~sae.architecture.AuxK` the largest dead pre-activations of a row are decoded
onto the residual that the living leave; with :class:`~sae.architecture.PreActivationLoss` pre-activations are raised
to the
threshold. Both are dense products over the dead latents alone.
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
    """Sums over rows, to be added to those of the dead latents of one member: of half the gradient."""

    latent: Int[Tensor, " dead"]
    z_r: Float[Tensor, "dead d_in"]
    g_x: Float[Tensor, "dead d_in"]
    g: Float[Tensor, " dead"]
    latent_parameters: Mapping[str, Float[Tensor, " dead"]]
    loss: Tensor


def dead_latent_gradient(
    stack: Stack,
    architecture: Architecture,
    x: Float[Tensor, "rows d_in"],
    residual: Float[Tensor, "rows d_in"],
    dead: Bool[Tensor, " n_latents"],
) -> DeadLatentGradient | None:
    """What the dead latents of a stack of one learn from `x`, where the others leave ``residual = x_hat - x``."""
    latent = dead.nonzero()[:, 0]
    if architecture.dead_latent_loss is None or not len(latent):
        return None
    W_enc, W_dec = stack.W_enc[0, latent], stack.W_dec[0, latent]
    pre = torch.addmm(stack.b_enc[0, latent], x - stack.subtracted[0], W_enc.T)
    if isinstance(architecture.dead_latent_loss, AuxK):
        return _towards_the_residual(architecture.dead_latent_loss, latent, pre, W_dec, x, residual)
    return _towards_the_threshold(
        architecture.dead_latent_loss, latent, pre, stack.latent_parameters["threshold"][0, latent], x
    )


def _towards_the_residual(
    how: AuxK, latent: Tensor, pre: Tensor, W_dec: Tensor, x: Tensor, residual: Tensor
) -> DeadLatentGradient:
    k = how.k or x.shape[1] // 2
    z = select_(pre, Largest(k))
    r = torch.addmm(residual, z, W_dec)
    weight = how.coefficient * min(1.0, len(latent) / k)
    loss = weight * r.square().sum()
    r *= weight
    g = (r @ W_dec.T).masked_fill_(z == 0, 0)
    return DeadLatentGradient(latent, z.T @ r, g.T @ x, g.sum(0), {}, loss)


def _towards_the_threshold(
    how: PreActivationLoss, latent: Tensor, pre: Tensor, threshold: Tensor, x: Tensor
) -> DeadLatentGradient:
    below = threshold - pre
    g = (below > 0).to(pre.dtype) * (-how.coefficient / 2)
    loss = how.coefficient * below.relu().sum()
    g_x, g_sum = g.T @ x, g.sum(0)
    return DeadLatentGradient(latent, torch.zeros_like(g_x), g_x, g_sum, {"threshold": -g_sum}, loss)
