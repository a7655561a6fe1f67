"""The gradient of a stack's loss by dense batched products, in blocks of rows.

With r = x_hat - x and h = r W_dec^T, an architecture turns candidates v into codes z and h into g, the gradient of
``1/2 (loss * batch)`` in the pre-activations. For ReLU and a penalty phi,

    v = z = select(x W_enc^T + b_enc - W_enc b_dec)  g = [z > 0] (h + 1/2 dphi/dz)
    dW_dec = 2/B z^T r                               db_enc = 2/B sum_b g
    dW_enc = 2/B (g^T x - (sum_b g) b_dec^T)         db_dec = 2/B (sum_b r - (sum_b g) W_enc)

The gradient of b_dec sums over the batch first: the sixth product that autograd would make is a
matrix-vector product here. Codes exist for a block of rows at a time, small enough for the cache.

Nested levels of widths w_1 < ... < w_L have a residual each, r_l. A latent of the s-th level and not of the one
before is in the levels s..L, so that ``(r_s + ... + r_L) / L`` takes the place of r for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae.architecture import Architecture, LargestOfBatch, LatentParameters, Pursuit
from sae.numerics.profiler import NO_SPANS, Spans
from sae.training.aux_losses import DeadLatentGradient, dead_latent_gradient
from sae.training.gradients import BatchSums, Gradient, Terms
from sae.training.kernels.reference import select_
from sae.training.stack import Stack, products_

_BLOCK = {"cpu": 1 << 21, "cuda": 1 << 29}
"""Codes of a block of rows of one member. How rows are cut does not depend on the company a member is in."""
SEARCH_SHARE = 0.7
"""The bar of a batch is looked for above this share of the one that was followed."""


def segments(architecture: Architecture, n_latents: int) -> list[slice]:
    """The latents of each level that are not in the one before."""
    return [slice(*ends) for ends in pairwise((0, *(architecture.levels or (n_latents,))))]


def residuals_by_segment(residuals: list[Tensor]) -> list[Tensor]:
    """What takes the place of the residual for the latents of each segment, in the same memory."""
    for inner, outer in pairwise(range(len(residuals) - 1, -1, -1)):
        residuals[outer] += residuals[inner]
    return [r.div_(len(residuals)) for r in residuals] if len(residuals) > 1 else residuals


@dataclass
class BatchContext:
    """What the blocks of a batch share: `half` of the penalty's weight, the decoder's `norm` (None: one), and whether
    to `count` what is only told."""

    stack: Stack
    architecture: Architecture
    offset: Float[Tensor, "n_members n_latents"]
    bar: Float[Tensor, " n_members"]
    half: Float[Tensor, "n_members 1 1"]
    norm: Float[Tensor, "n_members n_latents"] | None
    dead: Bool[Tensor, "n_members n_latents"] | None
    count: bool
    spans: Spans


class DenseStep:
    """The buffers of the dense path, for at most `n_members` of one shape; allocated once."""

    def __init__(self, n_members: int, n_latents: int, d_in: int, batch: int, like: Tensor) -> None:
        self.rows = min(batch, max(256, _BLOCK.get(like.device.type, 1 << 21) // n_latents))
        self.v, self.h = like.new_empty(2, n_members, self.rows, n_latents)
        self.residual = like.new_empty(n_members, self.rows, d_in)
        shape = (n_members, n_latents, d_in)
        self.W_enc, self.W_dec = like.new_empty(2, *shape)

    def candidates(
        self, stack: Stack, architecture: Architecture, x: Float[Tensor, "rows d_in"], offset: Tensor, bar: Tensor
    ) -> Float[Tensor, "n_members rows n_latents"]:
        """Those of a block of at most `rows` rows, from an offset less the margin and the `batch_threshold` of the
        batch."""
        v = self.v[: stack.n_members, : len(x)]
        products_(v, x.expand(stack.n_members, *x.shape), stack.W_enc.mT)
        v += offset[:, None, :]
        if isinstance(architecture.selection, LargestOfBatch):
            torch.relu_(v)
            return v.masked_fill_(v < bar[:, None, None], 0)
        assert not isinstance(architecture.selection, Pursuit)
        return select_(v, architecture.selection)

    def errors(
        self, stack: Stack, architecture: Architecture, x: Float[Tensor, "rows d_in"], y: Float[Tensor, "rows d_in"]
    ) -> Float[Tensor, "n_members rows"]:
        """The squared error of at most `rows` rows; a bar is the one that was followed."""
        own = broadcast(stack.per_latent())
        v = self.candidates(stack, architecture, x, offset_less_cutoff(stack, architecture), stack.batch_threshold)
        z = architecture.activate(v, own)[0]
        return self._residuals(stack, z, y, [slice(0, z.shape[-1])])[0].square().sum(-1)

    def cost(self, stack: Stack, architecture: Architecture, x: Float[Tensor, "batch d_in"]) -> Tensor:
        """The penalty of some of the rows, without its weight."""
        own, norm = broadcast(stack.per_latent()), None if architecture.unit_rows else stack.norm()[:, None, :]
        v = self.candidates(
            stack, architecture, x[: self.rows], offset_less_cutoff(stack, architecture), stack.batch_threshold
        )
        return architecture.cost(v, architecture.activate(v, own), norm, own).sum((1, 2))

    def _residuals(self, stack: Stack, z: Tensor, y: Tensor, parts: list[slice]) -> list[Tensor]:
        """``x_hat - y`` of each level."""
        found = list[Tensor]()
        for part in parts:
            buffer = self.residual[: stack.n_members, : len(y)]
            r = buffer if part is parts[-1] else torch.empty_like(buffer)
            r.copy_(found[-1]) if found else torch.sub(stack.b_dec[:, None, :], y, out=r)
            products_(r, z[..., part], stack.W_dec[:, part], keep=True)
            found.append(r)
        return found

    def bar(
        self, stack: Stack, architecture: Architecture, x: Float[Tensor, "batch d_in"], offset: Tensor
    ) -> Float[Tensor, " n_members"]:
        """The least code that a selection over the batch keeps; zero for other selections."""
        if not isinstance(architecture.selection, LargestOfBatch):
            return torch.zeros_like(stack.batch_threshold)
        wanted = architecture.selection.k * len(x)
        for likely in (SEARCH_SHARE * stack.batch_threshold, torch.zeros_like(stack.batch_threshold)):
            found: list[list[Tensor]] = [[] for _ in range(stack.n_members)]
            for some in x.split(self.rows):
                v = self.candidates(stack, architecture, some, offset, likely)
                for own, of_member in zip(found, v, strict=True):
                    own.append(of_member[of_member > 0])
            codes = [torch.cat(own) for own in found]
            if all(len(own) >= wanted for own in codes):
                break
        return torch.stack([kth_largest(own, wanted) for own in codes])

    def mean_l0(self, stack: Stack, architecture: Architecture, x: Tensor, offset: Tensor, bar: Tensor) -> Tensor:
        """The mean number of active latents, where the gradient depends on it."""
        l0, own = stack.b_enc.new_zeros(stack.n_members), broadcast(stack.per_latent())
        if architecture.needs_l0:
            for some in x.split(self.rows):
                v = self.candidates(stack, architecture, some, offset, bar)
                l0 += (architecture.activate(v, own)[0] > 0).sum((1, 2), dtype=l0.dtype)
        return l0 / len(x)

    def gradients(
        self,
        stack: Stack,
        architecture: Architecture,
        x: Float[Tensor, "batch d_in"],
        y: Float[Tensor, "batch d_in"],
        coefficient: Float[Tensor, " n_members"],
        target_l0: Float[Tensor, " n_members"],
        terms: Terms,
        dead: Bool[Tensor, "n_members n_latents"] | None = None,
        count: bool = True,
        spans: Spans = NO_SPANS,
    ) -> Gradient:
        """The gradients of all parameters, where codes of `x` are to reconstruct `y`."""
        offset = offset_less_cutoff(stack, architecture)
        bar = self.bar(stack, architecture, x, offset)
        l0 = self.mean_l0(stack, architecture, x, offset, bar)
        weight, value = architecture.penalty_weight(coefficient, l0, target_l0)
        norm = None if architecture.unit_rows else stack.norm()
        sums = BatchSums.of(stack, self.W_enc[: stack.n_members], self.W_dec[: stack.n_members])
        task = BatchContext(stack, architecture, offset, bar, weight[:, None, None] / 2, norm, dead, count, spans)
        for first in range(0, len(x), self.rows):
            self._add(sums, task, x[first : first + self.rows], y[first : first + self.rows], begun=first > 0)
        sums.write_terms(terms, len(x), coefficient, value, bar)
        return sums.gradient(stack, len(x), coefficient, norm)

    def _add(self, sums: BatchSums, task: BatchContext, x: Tensor, y: Tensor, begun: bool) -> None:
        """Adds a block of rows."""
        stack, architecture, own = task.stack, task.architecture, broadcast(task.stack.per_latent())
        parts, wide = segments(architecture, sums.to_enc.shape[1]), None if task.norm is None else task.norm[:, None, :]
        with task.spans("encode"):
            v = self.candidates(stack, architecture, x, task.offset, task.bar)
            codes = architecture.activate(v, own)
            z = codes[0]
        with task.spans("decode"):
            residuals = self._residuals(stack, z, y, parts)
        with task.spans("backward"):
            squares = [r.square().sum((1, 2)) for r in residuals]
            sums.square += squares[-1]
            sums.auxiliary += torch.stack(squares).mean(0) - squares[-1]
            additions = self._from_dead(stack, architecture, x, residuals[-1], task.dead)
            pulls = residuals_by_segment(residuals)
            sums.r += pulls[0].sum(1)
            h = self._along_decoder(stack, pulls, parts, len(x))
            beyond = [self._beyond(stack, a, y) for a in codes[1:]]
            sums.auxiliary += sum((part[1] for part in beyond), torch.zeros_like(sums.auxiliary))
            if task.count:
                sums.cost += architecture.cost(v, codes, wide, own).sum((1, 2))
                sums.l0 += (z > 0).sum((1, 2), dtype=sums.l0.dtype)
            if wide is not None:
                sums.in_norm += (z * architecture.slope(z * wide)).sum(1)
            pulled = architecture.backward(v, codes, (h, *(part[0] for part in beyond)), wide, task.half, own)
            g = pulled.pre
            torch.ops.aten.threshold_backward.grad_input(g, v, 0, grad_input=g)
            for part, r in zip(parts, pulls, strict=True):
                products_(sums.to_dec[:, part], z[..., part].mT, r, keep=begun)
            products_(sums.to_enc, g.mT, x.expand(stack.n_members, *x.shape), keep=begun)
            sums.z += z.sum(1)
            sums.g += g.sum(1)
            for name, by_code in pulled.parameters.items():
                sums.latent_parameters[name] += torch.where(v > 0, by_code, 0).sum(1)
            for i, more in additions:
                sums.add_dead(i, more)

    def _along_decoder(self, stack: Stack, pulls: list[Tensor], parts: list[slice], rows: int) -> Tensor:
        """``h = r W_dec^T``."""
        h = self.h[: stack.n_members, :rows]
        for part, r in zip(parts, pulls, strict=True):
            products_(h[..., part], r, stack.W_dec[:, part].mT)
        return h

    def _beyond(self, stack: Stack, codes: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """``h`` and the squared error of further codes."""
        r = (stack.b_dec[:, None, :] - y).contiguous()
        products_(r, codes, stack.W_dec, keep=True)
        h = torch.empty_like(codes)
        products_(h, r, stack.W_dec.mT)
        return h, r.square().sum((1, 2))

    def _from_dead(
        self, stack: Stack, architecture: Architecture, x: Tensor, residual: Tensor, dead: Tensor | None
    ) -> list[tuple[int, DeadLatentGradient]]:
        """What dead latents learn, member by member."""
        if dead is None:
            return []
        one = (
            dead_latent_gradient(stack.part(i, i + 1), architecture, x, residual[i], which)
            for i, which in enumerate(dead)
        )
        return [(i, found) for i, found in enumerate(one) if found is not None]


def offset_less_cutoff(stack: Stack, architecture: Architecture) -> Tensor:
    """The offset of pre-activations, less the margin."""
    margin = architecture.cutoff(stack.per_latent())
    return stack.offset() if margin is None else stack.offset() - margin


def broadcast(own: LatentParameters) -> LatentParameters:
    """Numbers of latents, to be met by codes of any number of rows."""
    return {name: numbers[:, None, :] for name, numbers in own.items()}


def kth_largest(codes: Float[Tensor, " codes"], wanted: int) -> Tensor:
    """The least of the `wanted` largest codes; zero where there are fewer."""
    if len(codes) < wanted:
        return codes.new_zeros(())
    return codes.kthvalue(len(codes) - wanted + 1).values
