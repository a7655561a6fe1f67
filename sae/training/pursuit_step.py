"""The gradient of matching pursuit, without autograd.

With r_0 = x - b_dec, each of k steps takes the direction with the largest projection of the residual,

    j_t = argmax_j r_t . W_j      a_t = ReLU(r_t . W_jt)      r_{t+1} = r_t - a_t W_jt

and codes are the sums of the `a_t` by latent; the loss is ``||r_k||^2``. Backward, with G the gradient in r_{t+1} and
w = W_jt,

    dw = -(a_t G + (G . w) r_t)      dr_t = G - (G . w) w

The choice of the direction has no gradient. Mallat and Zhang 1993; Costa et al. 2025, 'From flat to hierarchical:
extracting sparse representations with matching pursuit'.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sae.architecture import Pursuit
from sae.numerics.sparse_coding import PursuitStep, pursue
from sae.training.gradients import Gradient, Terms
from sae.training.kernels import Latents
from sae.training.stack import Stack

_ROWS = 4096
"""The number of samples that are pursued at a time."""


def pursuit_errors(stack: Stack, selection: Pursuit, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, " batch"]:
    """The squared error of every sample, for a stack of one."""
    W_dec, pieces = stack.W_dec[0], list[Tensor]()
    for block in x.split(_ROWS):
        *_, last = pursue(block - stack.b_dec[0], W_dec.T, W_dec, selection.k)
        pieces.append(last.after.square().sum(-1))
    return torch.cat(pieces)


def pursuit_gradients(stack: Stack, selection: Pursuit, x: Tensor, y: Tensor, terms: Terms) -> Gradient:
    """The gradient of every member's mean squared error; the encoder has none."""
    assert y is x, "matching pursuit cannot train a transcoder"
    total, scale = torch.zeros_like(stack.W_dec), 2 / len(x)
    b_dec = torch.zeros_like(stack.b_dec)
    terms.l0.zero_()
    for i, (W_dec, to_dec) in enumerate(zip(stack.W_dec, total, strict=True)):
        for block in x.split(_ROWS):
            path = list(pursue(block - stack.b_dec[i], W_dec.T, W_dec, selection.k))
            grad = path[-1].after
            terms.mse[i] += grad.square().sum() / len(x)
            terms.l0[i] += _count(path, len(W_dec)) / len(x)
            for latent, amount, r, _ in reversed(path):
                w = W_dec[latent]
                along = ((grad * w).sum(-1) * (amount > 0))[:, None]
                to_dec.index_add_(0, latent, -(amount[:, None] * grad + along * r))
                terms.fired[i, latent[amount > 0]] = True
                grad = grad - along * w
            b_dec[i] -= grad.sum(0)
    total *= scale
    none = torch.zeros_like(stack.b_enc)
    latents = Latents(torch.zeros_like(total).flatten(0, 1), total.flatten(0, 1), none.flatten())
    return Gradient(latents, {}, b_dec * scale)


def _count(path: Sequence[PursuitStep], n_latents: int) -> Tensor:
    """The number of different latents in each sample's path, summed over samples."""
    latent, amount = (torch.stack(part, -1) for part in ([t.latent for t in path], [t.amount for t in path]))
    taken = latent.masked_fill(amount <= 0, n_latents).sort(-1).values
    new = torch.ones_like(taken, dtype=torch.bool)
    new[:, 1:] = taken[:, 1:] != taken[:, :-1]
    return (new & (taken < n_latents)).sum().to(amount.dtype)
