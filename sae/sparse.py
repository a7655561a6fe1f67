"""The same step on active latents alone: after the encoder, four of five products touch nothing else.

The mathematics is that of :mod:`sae.dense`, pair by pair of (row, active latent), for members whose rows and
latents are numbered through; the gradients of a latent's weights meet Adam where they arise, so that no gradient
matrix exists.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sae.dense import Terms
from sae.kernels import Adam, Kernels, Pull, Rounded
from sae.spans import NO_SPANS, Spans
from sae.stack import Architecture, Stack


def descend(
    kernels: Kernels,
    stack: Stack,
    m: Stack,
    v: Stack,
    architecture: Architecture,
    x: Float[Tensor, "batch d_in"],
    coefficient: Float[Tensor, " n_members"],
    adam: Adam,
    residual: Float[Tensor, "n_members batch d_in"],
    terms: Terms,
    rounded: Rounded | None = None,
    spans: Spans = NO_SPANS,
) -> Float[Tensor, "n_members d_in"]:
    """One step of `adam` for all parameters but b_dec, whose gradient is returned."""
    p, (n_members, n_latents, _) = stack.latents(), stack.W_dec.shape
    flat, scale, each = residual.flatten(0, 1), 2 / len(x), (n_members, n_latents)
    with spans("encode"):
        codes = kernels.encode(x, p.W_enc, stack.offset().flatten(), architecture.selection, rounded, n_members)
    with spans("decode"):
        grad = kernels.decode(codes, p.W_dec, stack.b_dec, x, flat)
    with spans("backward"):
        by = kernels.transpose(codes, n_members * n_latents)
        z, along, weight = codes.value, None, coefficient.repeat_interleave(n_latents)
        if architecture.unit_rows:
            u = z
            slope = architecture.slope(u)
        else:
            norm = p.W_dec.norm(dim=-1).clamp_min(1e-12)
            u = z * norm[codes.latent]
            slope = architecture.slope(u)
            along = weight * kernels.sums(by, z * slope) / norm / len(x)
            weight = weight * norm
        g = grad.add_((weight / 2)[codes.latent] * slope)
        g_sum = kernels.sums(by, g).view(each)
        to_b_dec = scale * (residual.sum(1) - stack.along_encoder(g_sum))
        terms.fired.copy_((by.start.diff() > 0).view(each))
        terms.l0.copy_(codes.start[:: len(x)].diff()).div_(len(x))
        terms.mse.copy_(torch.linalg.vector_norm(residual, dim=(1, 2)).square_() / len(x))
        phi = kernels.sums(by, architecture.penalty(u)).view(each).sum(1)
        terms.penalty.copy_(coefficient * phi / len(x))
    with spans("optimizer"):
        pull = Pull(by, z, g, flat, x, stack.b_dec, p.W_dec, along, scale)
        kernels.update(pull, p, m.latents(), v.latents(), adam, architecture.unit_rows, rounded)
    return to_b_dec
