"""One training step's mathematics for a stack, by dense batched products into buffers that are reused.

With r = x_hat - x and g the gradient of ``1/2 (loss * batch)`` in the pre-activations,

    z = act(x W_enc^T + b_enc - W_enc b_dec)         g = act'( r W_dec^T + 1/2 dpenalty/dz )
    dW_dec = 2/B z^T r                               db_enc = 2/B sum_b g
    dW_enc = 2/B (g^T x - (sum_b g) b_dec^T)         db_dec = 2/B (sum_b r - (sum_b g) W_enc)

The gradient of b_dec sums over the batch first: the sixth product that autograd would make is a
matrix-vector product here. Gradients are checked against autograd in float64 by the tests.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sae.stack import Architecture, Stack


@dataclass
class Workspace:
    """The buffers of a step; allocated once."""

    z: Float[Tensor, "n_members batch n_latents"]
    grad_z: Float[Tensor, "n_members batch n_latents"]
    residual: Float[Tensor, "n_members batch d_in"]
    gradients: dict[str, Tensor]

    @classmethod
    def for_stack(cls, stack: Stack, batch: int) -> Workspace:
        n_members, n_latents, d_in = stack.W_dec.shape
        new = stack.W_dec.new_empty
        gradients = {name: torch.zeros_like(p) for name, p in stack.parameters().items()}
        codes = (n_members, batch, n_latents)
        return cls(new(codes), new(codes), new(n_members, batch, d_in), gradients)


def forward(
    stack: Stack, architecture: Architecture, x: Float[Tensor, "batch d_in"], z: Tensor, residual: Tensor
) -> tuple[Tensor, Tensor]:
    """Codes and residuals ``x_hat - x`` of all members on one batch, in the buffers `z` and `residual`."""
    offset = stack.b_enc - torch.bmm(stack.W_enc, stack.b_dec[:, :, None])[:, :, 0]
    shared = x.expand(stack.n_members, *x.shape)
    torch.baddbmm(offset[:, None, :], shared, stack.W_enc.mT, out=z)
    z = architecture.activate_(z)
    torch.sub(stack.b_dec[:, None, :], x, out=residual)
    residual.baddbmm_(z, stack.W_dec)
    return z, residual


def backward(
    stack: Stack,
    architecture: Architecture,
    x: Float[Tensor, "batch d_in"],
    coefficient: Tensor,
    work: Workspace,
) -> tuple[Float[Tensor, "n_members n_latents"], Float[Tensor, " n_members"]]:
    """Gradients of every parameter after :func:`forward`, into ``work.gradients``.

    Returns the codes' sums over the batch (what fired) and the members' mean penalties.
    """
    z, r, g = work.z, work.residual, work.grad_z
    batch = x.shape[0]
    z_sum = z.sum(1)
    row_norm = z_sum.new_ones(z_sum.shape) if architecture.unit_rows else stack.W_dec.norm(dim=-1).clamp_min(1e-12)
    penalty, in_z, in_norm = architecture.penalty(z, z_sum, row_norm, coefficient)
    g.copy_((in_z / 2).expand_as(g))
    g.baddbmm_(r, stack.W_dec.mT)
    g = architecture.derivative_(g, z)
    g_sum = g.sum(1)
    to = work.gradients
    shared = x.expand(stack.n_members, *x.shape)
    torch.baddbmm(to["W_dec"], z.mT, r, beta=0, alpha=2 / batch, out=to["W_dec"])
    if in_norm is not None:
        to["W_dec"].addcmul_(stack.W_dec, (in_norm / row_norm / batch)[:, :, None])
    torch.baddbmm(to["W_enc"], g.mT, shared, beta=0, alpha=2 / batch, out=to["W_enc"])
    to["W_enc"].addcmul_(g_sum[:, :, None], stack.b_dec[:, None, :], value=-2 / batch)
    torch.mul(g_sum, 2 / batch, out=to["b_enc"])
    from_encoder = torch.bmm(g_sum[:, None, :], stack.W_enc)[:, 0, :]
    torch.mul(r.sum(1) - from_encoder, 2 / batch, out=to["b_dec"])
    return z_sum, penalty / batch
