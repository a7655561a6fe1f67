"""The kernels in plain torch: what they mean, for any device and precision."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sae.architecture import Largest, Selection
from sae.numerics.thresholding import largest
from sae.training.kernels import Adam, ByLatent, Codes, Kernels, Latents, Rounded, SparseBackward


def select_(pre: Float[Tensor, "*rows n_latents"], selection: Selection) -> Tensor:
    """The codes of dense pre-activations, in their buffer."""
    if isinstance(selection, Largest):
        pre.copy_(largest(pre, selection.k))
    return pre.relu_()


class Reference(Kernels):
    """Dense codes, then only their non-zero entries; never faster than dense products."""

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
        numbered = latent + row // len(x) * z.shape[1]
        return Codes(start, numbered.int(), z[row, latent])

    def decode(self, codes: Codes, W_dec: Tensor, b_dec: Tensor, x: Tensor, residual: Tensor) -> Tensor:
        row, latent = _rows(codes), codes.latent.long()
        torch.sub(b_dec[:, None, :], x, out=residual.unflatten(0, (len(b_dec), len(x))))
        for some in _pieces(len(latent)):
            residual.index_add_(0, row[some], codes.value[some, None] * W_dec[latent[some]])
        grad = torch.empty_like(codes.value)
        for some in _pieces(len(latent)):
            grad[some] = (residual[row[some]] * W_dec[latent[some]]).sum(-1)
        return grad

    def transpose(self, codes: Codes, n_latents: int) -> ByLatent:
        pair = torch.sort(codes.latent, stable=True).indices
        start = torch.zeros(n_latents + 1, dtype=torch.int64, device=pair.device)
        torch.cumsum(torch.bincount(codes.latent, minlength=n_latents), 0, out=start[1:])
        return ByLatent(start, _rows(codes)[pair].int(), pair.int())

    def sums(self, by: ByLatent, values: Tensor) -> Tensor:
        return _segment_sums(by, values[by.pair.long()])

    def gradients(self, pull: SparseBackward, into: Latents) -> None:
        pair, row = pull.by.pair.long(), pull.by.row.long()
        latent = _segments(pull.by)
        z, g = pull.z[pair], pull.g[pair]
        into.W_enc.zero_()
        into.W_dec.zero_()
        for some in _pieces(len(pair)):
            into.W_dec.index_add_(0, latent[some], z[some, None] * pull.residual[row[some]])
            into.W_enc.index_add_(0, latent[some], g[some, None] * pull.x[row[some] % len(pull.x)])
        g_sum = _segment_sums(pull.by, g)
        b_dec = pull.centre.repeat_interleave(len(g_sum) // len(pull.centre), 0)
        into.W_enc.addcmul_(g_sum[:, None], b_dec, value=-1).mul_(pull.scale)
        into.W_dec.mul_(pull.scale)
        if pull.along is not None:
            into.W_dec.addcmul_(pull.along[:, None], pull.W_dec)
        torch.mul(g_sum, pull.scale, out=into.b_enc)

    def descend(
        self,
        p: Latents,
        m: Latents,
        v: Latents,
        gradient: Latents,
        adam: Adam,
        unit_rows: bool,
        rounded: Rounded | None,
    ) -> None:
        if unit_rows:
            along = (gradient.W_dec * p.W_dec).sum(-1, keepdim=True)
            gradient.W_dec.addcmul_(along, p.W_dec, value=-1)
        for parts in zip(p, m, v, gradient, strict=True):
            adam_(*parts, adam)
        if unit_rows:
            p.W_dec.div_(p.W_dec.norm(dim=-1, keepdim=True).clamp_min(1e-12))
        if rounded is not None:
            rounded.refresh_(p.W_enc)

    def update(
        self,
        pull: SparseBackward,
        p: Latents,
        m: Latents,
        v: Latents,
        adam: Adam,
        unit_rows: bool,
        rounded: Rounded | None,
    ) -> None:
        gradient = Latents(*(torch.empty_like(part) for part in p))
        self.gradients(pull, gradient)
        self.descend(p, m, v, gradient, adam, unit_rows, rounded)


def adam_(p: Tensor, m: Tensor, v: Tensor, gradient: Tensor, adam: Adam) -> None:
    """One step of Adam on one tensor."""
    m.lerp_(gradient, 1 - adam.beta1)
    v.mul_(adam.beta2).addcmul_(gradient, gradient, value=1 - adam.beta2)
    divisor = v.sqrt().mul_(adam.root).add_(adam.eps)
    if isinstance(adam.step_size, Tensor):
        p.sub_(m.mul(adam.step_size).div_(divisor))
    else:
        p.addcdiv_(m, divisor, value=-adam.step_size)


PAIRS_AT_ONCE = 1 << 16


def _pieces(n: int) -> list[slice]:
    """Pairs in pieces, so that the gathered rows ``[pairs, d_in]`` stay small."""
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
