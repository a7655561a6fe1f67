"""The gradient of a stack's loss by dense batched products, in blocks of samples.

With r = x_hat - x and h = r W_dec^T, an architecture turns kept pre-activations v into codes z and h into g, the
gradient of ``1/2 (loss * batch)`` in the pre-activations. For ReLU and a penalty phi,

    v = z = select(x W_enc^T + b_enc - W_enc b_dec)  g = [z > 0] (h + 1/2 dphi/dz)
    dW_dec = 2/B z^T r                               db_enc = 2/B sum_b g
    dW_enc = 2/B (g^T x - (sum_b g) b_dec^T)         db_dec = 2/B (sum_b r - (sum_b g) W_enc)

The gradient of b_dec sums over the batch first: the sixth product that autograd would compute is a matrix-vector
product here. Codes exist for one block of samples at a time, small enough for the cache.

Nested levels of widths w_1 < ... < w_L have one residual each, r_l. A latent that is in level s but not in level s - 1
is in the levels s..L, so that ``(r_s + ... + r_L) / L`` replaces r for it, or ``(r_s + r_L) / L`` where the
architecture detaches levels (``r_L / L`` in the last).

Where the latents are divided over processes, x_hat is the sum of what the processes decode; the codes, h, g and all
gradients of latents are computed where the latents are, and the last term of db_dec is summed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae.architecture import Architecture, LargestOfBatch, LatentParameters, Pursuit
from sae.numerics.processes import ALONE, Processes
from sae.numerics.profiler import NO_SPANS, Spans
from sae.training.aux_losses import DeadLatentGradient, dead_latent_gradient
from sae.training.gradients import BatchSums, Gradient, StepInputs
from sae.training.levels import residuals_by_segment, segments
from sae.training.selection import at_most, select_among_, thresholds_of_batch
from sae.training.shrinkage_step import FirstCodes, gradient_through_step, take_step_
from sae.training.stack import Stack, products_

_BLOCK = {"cpu": 1 << 21, "cuda": 1 << 29}
"""The number of codes of one member in a block. How a batch is divided does not depend on the number of members."""
SEARCH_SHARE = 0.7
"""The threshold of a batch is first searched for above this share of its moving average."""


@dataclass
class BatchContext:
    """What the blocks of a batch share."""

    stack: Stack
    """The parameters."""
    architecture: Architecture
    """The architecture of all members."""
    offset: Float[Tensor, "n_members n_latents"]
    """The offset of pre-activations, less the cutoff."""
    threshold: Float[Tensor, " n_members"]
    """The threshold of the batch, for a selection over the batch."""
    first: Float[Tensor, " n_members"] | None
    """That of a selection before it; None without one."""
    half: Float[Tensor, "n_members 1 1"]
    """Half of the penalty's weight."""
    norm: Float[Tensor, "n_members n_latents"] | None
    """The norms of decoder rows; None where they are one."""
    dead: Bool[Tensor, "n_members n_latents"] | None
    """The latents that the auxiliary loss trains; None for none."""
    count: bool
    """Whether to sum the terms that are only logged."""
    spans: Spans
    """The profiler."""


class DenseStep:
    """The dense path with its buffers, for at most `n_members` members of one shape."""

    def __init__(
        self,
        n_members: int,
        n_latents: int,
        d_in: int,
        batch: int,
        like: Tensor,
        group: Processes = ALONE,
        most: int = 0,
    ) -> None:
        """`group` has the other latents, at `most` so many on a process: all divide a batch into the same blocks."""
        self.group = group
        self.rows = min(batch, max(256, _BLOCK.get(like.device.type, 1 << 21) // max(most, n_latents)))
        self.v, self.h = like.new_empty(2, n_members, self.rows, n_latents)
        self.residual = like.new_empty(n_members, self.rows, d_in)
        shape = (n_members, n_latents, d_in)
        self.W_enc, self.W_dec = like.new_empty(2, *shape)
        self.first_codes: FirstCodes | None = None
        """The codes of the first of two selections in the last block."""

    def keep(
        self,
        stack: Stack,
        architecture: Architecture,
        x: Float[Tensor, "rows d_in"],
        offset: Tensor,
        threshold: Tensor,
        first: Float[Tensor, " n_members"] | None = None,
    ) -> Float[Tensor, "n_members rows n_latents"]:
        """The pre-activations that the selection keeps, for a block of at most `rows` samples; the others are zero.

        `offset` is that of :func:`offset_less_cutoff`, `threshold` the smallest value that a selection over the batch
        keeps, and `first` that of a selection before it, whose codes are in :attr:`first_codes` afterwards.
        """
        v = self.v[: stack.n_members, : len(x)]
        products_(v, x.expand(stack.n_members, *x.shape), stack.W_enc.mT)
        v += offset[:, None, :]
        if first is not None:
            self.first_codes = take_step_(v, stack, architecture.shrinkage_step, x, first, self.group)
        if isinstance(architecture.selection, LargestOfBatch):
            torch.relu_(v)
            return v.masked_fill_(v < threshold[:, None, None], 0)
        assert not isinstance(architecture.selection, Pursuit)
        return select_among_(v, architecture.selection, self.group)

    def errors(
        self, stack: Stack, architecture: Architecture, x: Float[Tensor, "rows d_in"], y: Float[Tensor, "rows d_in"]
    ) -> Float[Tensor, "n_members rows"]:
        """The squared error of at most `rows` samples, with the moving average of the batch threshold."""
        parameters = broadcast(stack.per_latent())
        offset = offset_less_cutoff(stack, architecture)
        v = self.keep(stack, architecture, x, offset, stack.batch_threshold, stack.first_threshold)
        z = architecture.activate(v, parameters)[0]
        return self._residuals(stack, z, y, [slice(0, z.shape[-1])])[0].square().sum(-1)

    def cost(self, stack: Stack, architecture: Architecture, x: Float[Tensor, "batch d_in"]) -> Tensor:
        """The unweighted penalty, summed over the first `rows` samples and over all processes."""
        parameters, norm = broadcast(stack.per_latent()), None if architecture.unit_rows else stack.norm()[:, None, :]
        offset = offset_less_cutoff(stack, architecture)
        v = self.keep(stack, architecture, x[: self.rows], offset, stack.batch_threshold)
        cost = architecture.cost(v, architecture.activate(v, parameters), norm, parameters).sum((1, 2))
        self.group.sum_(cost)
        return cost

    def _residuals(self, stack: Stack, z: Tensor, y: Tensor, parts: list[slice]) -> list[Tensor]:
        """``x_hat - y`` of each level."""
        residuals = list[Tensor]()
        for part in parts:
            buffer = self.residual[: stack.n_members, : len(y)]
            r = buffer if part is parts[-1] else torch.empty_like(buffer)
            r.copy_(residuals[-1]) if residuals else self._start(stack, y, out=r)
            products_(r, z[..., part], stack.W_dec[:, part], keep=True)
            residuals.append(r)
        for r in residuals:
            self.group.sum_(r)
        return residuals

    def _start(self, stack: Stack, y: Tensor, out: Tensor) -> Tensor:
        """``b_dec - y``, to which the decoded codes are added; zero on all processes of the group but the first."""
        return torch.sub(stack.b_dec[:, None, :], y, out=out) if self.group.is_first else out.zero_()

    def threshold(
        self,
        stack: Stack,
        architecture: Architecture,
        x: Float[Tensor, "batch d_in"],
        offset: Tensor,
        average: Float[Tensor, " n_members"],
        first: Float[Tensor, " n_members"] | None = None,
    ) -> Float[Tensor, " n_members"]:
        """The smallest pre-activation that a selection over the batch keeps, whose moving average is `average`; zero
        for other selections. `first` is that of a selection before it."""
        if not isinstance(architecture.selection, LargestOfBatch):
            return torch.zeros_like(average)
        n_kept = architecture.selection.k * len(x)
        for floor in (SEARCH_SHARE * average, torch.zeros_like(average)):
            pieces: list[list[Tensor]] = [[] for _ in range(stack.n_members)]
            for block in x.split(self.rows):
                v = self.keep(stack, architecture, block, offset, floor, first)
                for positive, of_member in zip(pieces, v, strict=True):
                    positive.append(at_most(of_member[of_member > 0], n_kept))
            thresholds, enough = thresholds_of_batch([torch.cat(positive) for positive in pieces], n_kept, self.group)
            if enough:
                break
        return thresholds

    def mean_l0(self, stack: Stack, architecture: Architecture, x: Tensor, offset: Tensor, threshold: Tensor) -> Tensor:
        """The mean number of active latents, where the gradient depends on it; zero elsewhere."""
        l0, parameters = stack.b_enc.new_zeros(stack.n_members), broadcast(stack.per_latent())
        if architecture.needs_l0:
            for block in x.split(self.rows):
                v = self.keep(stack, architecture, block, offset, threshold)
                l0 += (architecture.activate(v, parameters)[0] > 0).sum((1, 2), dtype=l0.dtype)
            self.group.sum_(l0)
        return l0 / len(x)

    def gradients(
        self, stack: Stack, architecture: Architecture, inputs: StepInputs, spans: Spans = NO_SPANS
    ) -> Gradient:
        """The gradients of all parameters; fills in the terms of the `inputs`."""
        x, y = inputs.x, inputs.y
        offset = offset_less_cutoff(stack, architecture)
        first = None
        if stack.first_threshold is not None:
            first = self.threshold(stack, architecture, x, offset, stack.first_threshold)
            inputs.terms.first_threshold.copy_(first)
        threshold = self.threshold(stack, architecture, x, offset, stack.batch_threshold, first)
        l0 = self.mean_l0(stack, architecture, x, offset, threshold)
        weight, value = architecture.penalty_weight(inputs.coefficient, l0, inputs.target_l0)
        norm = None if architecture.unit_rows else stack.norm()
        sums = BatchSums.of(stack, self.W_enc[: stack.n_members], self.W_dec[: stack.n_members])
        context = BatchContext(
            stack=stack,
            architecture=architecture,
            offset=offset,
            threshold=threshold,
            first=first,
            half=weight[:, None, None] / 2,
            norm=norm,
            dead=inputs.dead,
            count=inputs.count,
            spans=spans,
        )
        for first in range(0, len(x), self.rows):
            block = slice(first, first + self.rows)
            self._add(sums, context, x[block], y[block], is_first=first == 0)
        if inputs.count:
            self.group.sum_(sums.l0, sums.cost)
        sums.write_terms(inputs, value, threshold)
        gradient = sums.gradient(stack, len(x), inputs.coefficient, norm)
        gradient.add_along_encoder_(stack, self.group)
        return gradient

    def _add(self, sums: BatchSums, context: BatchContext, x: Tensor, y: Tensor, is_first: bool) -> None:
        """Adds a block of samples."""
        stack, architecture, parameters = context.stack, context.architecture, broadcast(context.stack.per_latent())
        parts = segments(architecture, sums.to_enc.shape[1])
        norm = None if context.norm is None else context.norm[:, None, :]
        with context.spans("encode"):
            v = self.keep(stack, architecture, x, context.offset, context.threshold, context.first)
            codes = architecture.activate(v, parameters)
            z = codes[0]
        with context.spans("decode"):
            residuals = self._residuals(stack, z, y, parts)
        with context.spans("backward"):
            squares = [r.square().sum((1, 2)) for r in residuals]
            sums.square += squares[-1]
            sums.auxiliary += torch.stack(squares).mean(0) - squares[-1]
            additions = self._from_dead(stack, architecture, x, residuals[-1], context.dead)
            by_segment = residuals_by_segment(residuals, architecture.detach)
            sums.r += by_segment[0].sum(1)
            h = self._along_decoder(stack, by_segment, parts, len(x))
            further = [self._decode_detached(stack, a, y) for a in codes[1:]]
            sums.auxiliary += sum((square for _, square in further), torch.zeros_like(sums.auxiliary))
            if context.count:
                sums.cost += architecture.cost(v, codes, norm, parameters).sum((1, 2))
                sums.l0 += (z > 0).sum((1, 2), dtype=sums.l0.dtype)
            if norm is not None:
                sums.in_norm += (z * architecture.slope(z * norm)).sum(1)
            every_h = h, *(h_further for h_further, _ in further)
            gradients = architecture.backward(v, codes, every_h, norm, context.half, parameters)
            g = gradients.pre
            torch.ops.aten.threshold_backward.grad_input(g, v, 0, grad_input=g)
            for part, r in zip(parts, by_segment, strict=True):
                products_(sums.to_dec[:, part], z[..., part].mT, r, keep=not is_first)
            if context.first is not None:
                assert self.first_codes is not None
                step = architecture.shrinkage_step
                g = gradient_through_step(g, self.first_codes, stack, step, sums.to_dec, sums.r, self.group)
            products_(sums.to_enc, g.mT, x.expand(stack.n_members, *x.shape), keep=not is_first)
            sums.z += z.sum(1)
            if architecture.by_frequency:
                sums.active += (z > 0).sum(1, dtype=sums.active.dtype)
            sums.g += g.sum(1)
            for name, by_code in gradients.parameters.items():
                sums.latent_parameters[name] += torch.where(v > 0, by_code, 0).sum(1)
            for i, more in additions:
                sums.add_dead(i, more)

    def _along_decoder(self, stack: Stack, residuals: list[Tensor], parts: list[slice], rows: int) -> Tensor:
        """``h = r W_dec^T``, segment by segment."""
        h = self.h[: stack.n_members, :rows]
        for part, r in zip(parts, residuals, strict=True):
            products_(h[..., part], r, stack.W_dec[:, part].mT)
        return h

    def _decode_detached(self, stack: Stack, codes: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """``h`` and the squared error of further codes, whose decoder gets no gradient."""
        r = self._start(stack, y, out=y.new_empty(stack.n_members, *y.shape))
        products_(r, codes, stack.W_dec, keep=True)
        self.group.sum_(r)
        h = torch.empty_like(codes)
        products_(h, r, stack.W_dec.mT)
        return h, r.square().sum((1, 2))

    def _from_dead(
        self, stack: Stack, architecture: Architecture, x: Tensor, residual: Tensor, dead: Tensor | None
    ) -> list[tuple[int, DeadLatentGradient]]:
        """The auxiliary gradients of dead latents, with the indices of their members."""
        if dead is None:
            return []
        by_member = (
            dead_latent_gradient(stack.part(i, i + 1), architecture, x, residual[i], of_member, self.group)
            for i, of_member in enumerate(dead)
        )
        return [(i, gradient) for i, gradient in enumerate(by_member) if gradient is not None]


def offset_less_cutoff(stack: Stack, architecture: Architecture) -> Tensor:
    """The offset of pre-activations, less the architecture's cutoff."""
    cutoff = architecture.cutoff(stack.per_latent())
    return stack.offset() if cutoff is None else stack.offset() - cutoff


def broadcast(parameters: LatentParameters) -> LatentParameters:
    """Per-latent parameters with an axis for samples inserted."""
    return {name: values[:, None, :] for name, values in parameters.items()}
