"""The gradient of a stack's loss by dense batched products, in blocks of rows.

With r = x_hat - x and g the gradient of ``1/2 (loss * batch)`` in the pre-activations,

    z = select(x W_enc^T + b_enc - W_enc b_dec)      g = [z > 0] (r W_dec^T + 1/2 dpenalty/dz)
    dW_dec = 2/B z^T r                               db_enc = 2/B sum_b g
    dW_enc = 2/B (g^T x - (sum_b g) b_dec^T)         db_dec = 2/B (sum_b r - (sum_b g) W_enc)

The gradient of b_dec sums over the batch first: the sixth product that autograd would make is a
matrix-vector product here. Codes exist for a block of rows at a time, small enough for the cache.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae.kernels import Latents
from sae.kernels.reference import select_
from sae.spans import NO_SPANS, Spans
from sae.stack import Architecture, Stack, products_

BLOCK = {"cpu": 1 << 21, "cuda": 1 << 29}
"""Codes of a block of rows of one member. How rows are cut does not depend on the company a member is in."""


@dataclass
class Terms:
    """What a step leaves behind, one entry a member; `l0` is the mean number of active latents, which the dense path
    counts only when it is asked to."""

    fired: Bool[Tensor, "n_members n_latents"]
    l0: Float[Tensor, " n_members"]
    mse: Float[Tensor, " n_members"]
    penalty: Float[Tensor, " n_members"]

    @classmethod
    def empty(cls, stack: Stack) -> Terms:
        n_members, n_latents, _ = stack.W_dec.shape
        l0, mse, penalty = stack.W_dec.new_zeros(3, n_members)
        return cls(torch.zeros(n_members, n_latents, dtype=torch.bool, device=stack.W_dec.device), l0, mse, penalty)

    def part(self, first: int, last: int) -> Terms:
        """Those of some members in a row, as views."""
        return Terms(self.fired[first:last], self.l0[first:last], self.mse[first:last], self.penalty[first:last])


class Dense:
    """The buffers of the dense path, for at most `n_members` of one shape; allocated once."""

    def __init__(self, n_members: int, n_latents: int, d_in: int, batch: int, like: Tensor) -> None:
        self.rows = min(batch, max(256, BLOCK.get(like.device.type, 1 << 21) // n_latents))
        self.z, self.g = like.new_empty(2, n_members, self.rows, n_latents)
        self.residual = like.new_empty(n_members, self.rows, d_in)
        shape = (n_members, n_latents, d_in)
        self.W_enc, self.W_dec = like.new_empty(2, *shape)

    def forward(
        self,
        stack: Stack,
        architecture: Architecture,
        x: Float[Tensor, "rows d_in"],
        offset: Tensor,
        spans: Spans = NO_SPANS,
    ) -> tuple[Float[Tensor, "n_members rows n_latents"], Float[Tensor, "n_members rows d_in"]]:
        """Codes and residuals ``x_hat - x`` of a block of at most `rows` rows."""
        z, r = self.z[: stack.n_members, : len(x)], self.residual[: stack.n_members, : len(x)]
        with spans("encode"):
            products_(z, x.expand(stack.n_members, *x.shape), stack.W_enc.mT)
            z += offset[:, None, :]
            select_(z, architecture.selection)
        with spans("decode"):
            torch.sub(stack.b_dec[:, None, :], x, out=r)
            products_(r, z, stack.W_dec, keep=True)
        return z, r

    def gradients(
        self,
        stack: Stack,
        architecture: Architecture,
        x: Float[Tensor, "batch d_in"],
        coefficient: Float[Tensor, " n_members"],
        terms: Terms,
        count: bool = True,
        spans: Spans = NO_SPANS,
    ) -> tuple[Latents, Float[Tensor, "n_members d_in"]]:
        """The gradients of the latents' parameters, in buffers that the next call overwrites, and of b_dec."""
        n_members, scale = stack.n_members, 2 / len(x)
        to_enc, to_dec = self.W_enc[:n_members], self.W_dec[:n_members]
        norm = None if architecture.unit_rows else stack.W_dec.norm(dim=-1).clamp_min(1e-12)
        offset = stack.offset()
        z_sum, g_sum, in_norm = stack.b_enc.new_zeros(3, *stack.b_enc.shape)
        r_sum = torch.zeros_like(stack.b_dec)
        l0, square, penalty = stack.b_enc.new_zeros(3, n_members)
        for first in range(0, len(x), self.rows):
            some = x[first : first + self.rows]
            z, r = self.forward(stack, architecture, some, offset, spans)
            with spans("backward"):
                g = self.g[:n_members, : len(some)]
                u = z if norm is None else z * norm[:, None, :]
                slope = architecture.slope(u)
                half = coefficient[:, None, None] / 2 * slope
                g.copy_((half if norm is None else half * norm[:, None, :]).expand_as(g))
                products_(g, r, stack.W_dec.mT, keep=True)
                torch.ops.aten.threshold_backward.grad_input(g, z, 0, grad_input=g)
                products_(to_dec, z.mT, r, keep=first > 0)
                products_(to_enc, g.mT, some.expand(n_members, *some.shape), keep=first > 0)
                z_sum += z.sum(1)
                g_sum += g.sum(1)
                r_sum += r.sum(1)
                square += r.square().sum((1, 2))
                if count:
                    l0 += (z > 0).sum((1, 2), dtype=l0.dtype)
                if isinstance(slope, Tensor):
                    penalty += architecture.penalty(u).sum((1, 2))
                    in_norm += (z * slope).sum(1)
        slope = architecture.slope(z_sum)
        if not isinstance(slope, Tensor):
            penalty = slope * (z_sum if norm is None else z_sum * norm).sum(1)
            in_norm = slope * z_sum
        to_bias = g_sum.mul_(scale)
        to_dec.mul_(scale)
        to_enc.mul_(scale).addcmul_(to_bias[:, :, None], stack.b_dec[:, None, :], value=-1)
        if norm is not None:
            along = coefficient[:, None] * in_norm / norm / len(x)
            to_dec.addcmul_(along[:, :, None], stack.W_dec)
        torch.gt(z_sum, 0, out=terms.fired)
        terms.l0.copy_(l0 / len(x))
        terms.mse.copy_(square / len(x))
        terms.penalty.copy_(coefficient * penalty / len(x))
        of_b_dec = scale * r_sum - stack.along_encoder(to_bias)
        return Stack(to_enc, to_dec, to_bias, of_b_dec).latents(), of_b_dec
