"""The kernels in plain torch, as a specification, for any device and precision."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sae.architecture import Largest, Selection
from sae.numerics.thresholding import largest
from sae.training.kernels import Adam, ByLatent, Codes, Kernels, Latents, Rounded, SparseBackward, TrainedLatents


def select_(pre: Float[Tensor, "*rows n_latents"], selection: Selection) -> Tensor:
    """The codes of dense pre-activations, in place."""
    if isinstance(selection, Largest):
        pre.copy_(largest(pre, selection.k))
    return pre.relu_()


class Reference(Kernels):
    """Computes dense codes and keeps the non-zero entries; never faster than dense products."""

    sparse_below = 0.0
    dense_above = 0.0

    def encode(
        self,
        x: Tensor,
        W_enc: Tensor,
        offset: Tensor,
        selection: Selection,
        rounded: Rounded | None = None,
        n_members: int = 1,
    ) -> Codes:
        if rounded is not None and not rounded.exact:
            pre = (x.to(torch.bfloat16) @ rounded.W_enc.T).to(x.dtype) + offset
        else:
            pre = torch.addmm(offset, x, W_enc.T)
        z = select_(torch.stack(pre.chunk(n_members, 1)), selection).flatten(0, 1)
        start = torch.zeros(len(z) + 1, dtype=torch.int64, device=x.device)
        torch.cumsum((z > 0).sum(-1), 0, out=start[1:])
        row, latent = z.nonzero().T
        across_members = latent + row // len(x) * z.shape[1]
        return Codes(start, across_members.int(), z[row, latent])

    def decode(self, codes: Codes, W_dec: Tensor, b_dec: Tensor, x: Tensor, residual: Tensor) -> Tensor:
        row, latent = _rows(codes), codes.latent.long()
        torch.sub(b_dec[:, None, :], x, out=residual.unflatten(0, (len(b_dec), len(x))))
        for piece in _pieces(len(latent)):
            residual.index_add_(0, row[piece], codes.value[piece, None] * W_dec[latent[piece]])
        grad = torch.empty_like(codes.value)
        for piece in _pieces(len(latent)):
            grad[piece] = (residual[row[piece]] * W_dec[latent[piece]]).sum(-1)
        return grad

    def transpose(self, codes: Codes, n_latents: int) -> ByLatent:
        pair = torch.sort(codes.latent, stable=True).indices
        start = torch.zeros(n_latents + 1, dtype=torch.int64, device=pair.device)
        torch.cumsum(torch.bincount(codes.latent, minlength=n_latents), 0, out=start[1:])
        return ByLatent(start, _rows(codes)[pair].int(), pair.int())

    def sums(self, by: ByLatent, values: Tensor) -> Tensor:
        return _segment_sums(by, values[by.pair.long()])

    def gradients(self, backward: SparseBackward, into: Latents) -> None:
        pair, row = backward.by.pair.long(), backward.by.row.long()
        latent = _segments(backward.by)
        z, g = backward.z[pair], backward.g[pair]
        into.W_enc.zero_()
        into.W_dec.zero_()
        for piece in _pieces(len(pair)):
            into.W_dec.index_add_(0, latent[piece], z[piece, None] * backward.residual[row[piece]])
            into.W_enc.index_add_(0, latent[piece], g[piece, None] * backward.x[row[piece] % len(backward.x)])
        g_sum = _segment_sums(backward.by, g)
        centre = backward.centre.repeat_interleave(len(g_sum) // len(backward.centre), 0)
        into.W_enc.addcmul_(g_sum[:, None], centre, value=-1).mul_(backward.scale)
        into.W_dec.mul_(backward.scale)
        if backward.along is not None:
            into.W_dec.addcmul_(backward.along[:, None], backward.W_dec)
        torch.mul(g_sum, backward.scale, out=into.b_enc)

    def descend(self, latents: TrainedLatents, gradient: Latents, adam: Adam) -> None:
        p = latents.parameters
        if latents.unit_rows:
            along = (gradient.W_dec * p.W_dec).sum(-1, keepdim=True)
            gradient.W_dec.addcmul_(along, p.W_dec, value=-1)
        for parts in zip(p, latents.m, latents.v, gradient, strict=True):
            adam_(*parts, adam)
        if latents.unit_rows:
            p.W_dec.div_(p.W_dec.norm(dim=-1, keepdim=True).clamp_min(1e-12))
        if latents.rounded is not None:
            latents.rounded.refresh_(p.W_enc)

    def update(self, latents: TrainedLatents, backward: SparseBackward, adam: Adam) -> None:
        gradient = Latents(*(torch.empty_like(part) for part in latents.parameters))
        self.gradients(backward, gradient)
        self.descend(latents, gradient, adam)


def adam_(p: Tensor, m: Tensor, v: Tensor, gradient: Tensor, adam: Adam) -> None:
    """One step of Adam on one tensor, in place."""
    m.lerp_(gradient, 1 - adam.beta1)
    v.mul_(adam.beta2).addcmul_(gradient, gradient, value=1 - adam.beta2)
    divisor = v.sqrt().mul_(adam.root).add_(adam.eps)
    if isinstance(adam.step_size, Tensor):
        p.sub_(m.mul(adam.step_size).div_(divisor))
    else:
        p.addcdiv_(m, divisor, value=-adam.step_size)


PAIRS_AT_ONCE = 1 << 16
"""The number of pairs whose rows are gathered at a time."""


def _pieces(n: int) -> list[slice]:
    """Slices of the pairs, so that the gathered rows ``[pairs, d_in]`` stay small."""
    return [slice(i, i + PAIRS_AT_ONCE) for i in range(0, n, PAIRS_AT_ONCE)]


def _rows(codes: Codes) -> Tensor:
    """The row of every pair."""
    rows = torch.arange(len(codes.start) - 1, device=codes.start.device)
    return rows.repeat_interleave(codes.start.diff(), output_size=len(codes.latent))


def _segments(by: ByLatent) -> Tensor:
    """The latent of every pair, in the order of latents."""
    latents = torch.arange(len(by.start) - 1, device=by.start.device)
    return latents.repeat_interleave(by.start.diff(), output_size=len(by.pair))


def _segment_sums(by: ByLatent, values: Tensor) -> Tensor:
    return values.new_zeros(len(by.start) - 1).index_add_(0, _segments(by), values)
