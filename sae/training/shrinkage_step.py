"""A step of iterative shrinkage inside the encoder, and its gradient without autograd.

With the codes z_0 that a selection over the batch keeps of the first pre-activations p_0, and a step size eta,

    r_0 = z_0 W_dec + b_dec - x          p_1 = p_0 - eta r_0 W_dec^T

and a second selection over the batch keeps the codes of p_1: latents that explain the same part of a sample take it
from one another before they are chosen. Backward, with g the gradient in p_1 (zero where no code is kept),

    dr_0 = -eta g W_dec    dW_dec += z_0^T dr_0 - eta g^T r_0    db_dec += dr_0    dp_0 = g + [z_0 > 0] dr_0 W_dec^T

and dp_0 takes the place of g in the gradients of the encoder. Gregor and LeCun 2010, 'Learning fast approximations of
sparse coding', with the decoder in place of the learned matrices.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sae.numerics.processes import Processes
from sae.training.stack import Stack, products_

PRODUCTS = 11
"""Products of ``d_in * n_latents`` in a training step: the five of any dense step, the first reconstruction and its
correlation with the decoder, and four for the gradient of these."""


class FirstCodes(NamedTuple):
    """What the gradient of the step needs of the first selection."""

    z: Float[Tensor, "n_members rows n_latents"]
    """The first codes."""
    r: Float[Tensor, "n_members rows d_in"]
    """Their residuals ``x_hat - x``."""


def take_step_(
    pre: Float[Tensor, "n_members rows n_latents"],
    stack: Stack,
    eta: float,
    x: Float[Tensor, "rows d_in"],
    threshold: Float[Tensor, " n_members"],
    group: Processes,
) -> FirstCodes:
    """Takes the step, in place; `threshold` is the smallest pre-activation that the first selection keeps."""
    z = torch.relu(pre)
    z.masked_fill_(z < threshold[:, None, None], 0)
    r = z.new_zeros(stack.n_members, *x.shape)
    if group.is_first:
        torch.sub(stack.b_dec[:, None, :], x, out=r)
    products_(r, z, stack.W_dec, keep=True)
    group.sum_(r)
    products_(pre, -eta * r, stack.W_dec.mT, keep=True)
    return FirstCodes(z, r)


def gradient_through_step(
    g: Float[Tensor, "n_members rows n_latents"],
    first: FirstCodes,
    stack: Stack,
    eta: float,
    to_dec: Float[Tensor, "n_members n_latents d_in"],
    to_b_dec: Float[Tensor, "n_members d_in"],
    group: Processes,
) -> Float[Tensor, "n_members rows n_latents"]:
    """The gradient in the first pre-activations; adds the step's part to the sums `to_dec` and `to_b_dec`."""
    scaled = -eta * g
    by_r = torch.empty_like(first.r)
    products_(by_r, scaled, stack.W_dec)
    group.sum_(by_r)
    to_b_dec += by_r.sum(1)
    products_(to_dec, scaled.mT, first.r, keep=True)
    products_(to_dec, first.z.mT, by_r, keep=True)
    products_(scaled, by_r, stack.W_dec.mT)
    return scaled.masked_fill_(first.z == 0, 0).add_(g)
