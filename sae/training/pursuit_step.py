"""The gradient of matching pursuit, by hand.

With r_0 = x - b_dec, each of k steps takes the direction that the residual shows most of,

    j_t = argmax_j r_t . W_j      a_t = ReLU(r_t . W_jt)      r_{t+1} = r_t - a_t W_jt

and codes are the sums of the `a_t` by latent; the loss is ``||r_k||^2``. Backwards, with G the gradient in r_{t+1} and
w the direction that was taken,

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
"""Rows that are pursued at a time."""


def pursuit_errors(stack: Stack, how: Pursuit, x: Float[Tensor, "rows d_in"]) -> Float[Tensor, " rows"]:
    """The squared error of every row, for a stack of one."""
    W_dec, pieces = stack.W_dec[0], list[Tensor]()
    for some in x.split(_ROWS):
        *_, last = pursue(some - stack.b_dec[0], W_dec.T, W_dec, how.k)
        pieces.append(last.after.square().sum(-1))
    return torch.cat(pieces)


def pursuit_gradients(stack: Stack, how: Pursuit, x: Tensor, y: Tensor, terms: Terms) -> Gradient:
    """The gradient of every member's mean squared error; the encoder has none."""
    assert y is x, "a pursuit explains the rows that it reads"
    total, scale = torch.zeros_like(stack.W_dec), 2 / len(x)
    of_b_dec = torch.zeros_like(stack.b_dec)
    terms.l0.zero_()
    for i, (W_dec, to_dec) in enumerate(zip(stack.W_dec, total, strict=True)):
        for some in x.split(_ROWS):
            path = list(pursue(some - stack.b_dec[i], W_dec.T, W_dec, how.k))
            pull = path[-1].after
            terms.mse[i] += pull.square().sum() / len(x)
            terms.l0[i] += _count(path, len(W_dec)) / len(x)
            for latent, amount, r, _ in reversed(path):
                w = W_dec[latent]
                along = ((pull * w).sum(-1) * (amount > 0))[:, None]
                to_dec.index_add_(0, latent, -(amount[:, None] * pull + along * r))
                terms.fired[i, latent[amount > 0]] = True
                pull = pull - along * w
            of_b_dec[i] -= pull.sum(0)
    total *= scale
    none = torch.zeros_like(stack.b_enc)
    latents = Latents(torch.zeros_like(total).flatten(0, 1), total.flatten(0, 1), none.flatten())
    return Gradient(latents, {}, of_b_dec * scale)


def _count(path: Sequence[PursuitStep], n_latents: int) -> Tensor:
    """How many different latents were taken, summed over rows."""
    latent, amount = (torch.stack(part, -1) for part in ([t.latent for t in path], [t.amount for t in path]))
    taken = latent.masked_fill(amount <= 0, n_latents).sort(-1).values
    new = torch.ones_like(taken, dtype=torch.bool)
    new[:, 1:] = taken[:, 1:] != taken[:, :-1]
    return (new & (taken < n_latents)).sum().to(amount.dtype)
