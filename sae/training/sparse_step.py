"""A training step on active latents only: after the encoder, four of five products touch no others.

The mathematics is that of :mod:`sae.training.dense_step`, for pairs of (row, kept latent), with rows and latents
numbered across members. Adam is applied to the gradients of a latent's weights as they are computed, so that no
gradient matrix exists. Where a dictionary has levels, or an auxiliary loss for dead latents, members are processed one
by one and level by level.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sae.architecture import Architecture, Largest, LargestOfBatch, LatentParameters, Positive, Pursuit, Selection
from sae.numerics.processes import ALONE, Processes
from sae.numerics.profiler import NO_SPANS, Spans
from sae.training.aux_losses import DeadLatentGradient, dead_latent_gradient
from sae.training.dense_step import SEARCH_SHARE, offset_less_cutoff
from sae.training.gradients import StepInputs
from sae.training.kernels import Adam, Codes, Kernels, Latents, Rounded, SparseBackward, TrainedLatents
from sae.training.levels import residuals_by_segment, segments
from sae.training.selection import keep_among, keep_pairs, thresholds_of_batch
from sae.training.stack import Stack


class RemainingGradient(NamedTuple):
    """The gradients that the kernels have not applied."""

    latent_parameters: Mapping[str, Float[Tensor, "n_members n_latents"]]
    """The gradients of the architecture's per-latent parameters."""
    b_dec: Float[Tensor, "n_members d_in"]
    """The gradient of the decoder bias."""


@dataclass(frozen=True)
class Members:
    """Some members of a stack with their state in training."""

    kernels: Kernels
    """The kernels."""
    stack: Stack
    """The parameters."""
    m: Stack
    """Adam's first moments."""
    v: Stack
    """Adam's second moments."""
    architecture: Architecture
    """The architecture of all members."""
    residual: Float[Tensor, "n_members batch d_in"]
    """A buffer for residuals."""
    rounded: Rounded | None = None
    """The rounded encoder; None to compute its product in full precision."""
    spans: Spans = NO_SPANS
    """The profiler."""
    group: Processes = ALONE
    """The processes that have the other latents of these members."""

    def part(self, first: int, last: int) -> Members:
        """The members `first` to `last`, as views."""
        n_latents = self.stack.W_dec.shape[1]
        return replace(
            self,
            stack=self.stack.part(first, last),
            m=self.m.part(first, last),
            v=self.v.part(first, last),
            residual=self.residual[first:last],
            rounded=None if self.rounded is None else self.rounded.part(first * n_latents, last * n_latents),
        )


class Segment(NamedTuple):
    """Kept pre-activations of the same latents of every member, and their codes."""

    part: slice
    """The latents of each member."""
    pairs: Codes
    """The kept pre-activations, less the cutoff."""
    latent_parameters: LatentParameters
    """The per-latent parameters of each pair."""
    codes: tuple[Tensor, ...]
    """The codes of each pair, and further codes that are decoded with a detached decoder."""

    def with_values(self, value: Tensor) -> Codes:
        """The pairs with other values."""
        return self.pairs._replace(value=value)


def sparse_descend(members: Members, inputs: StepInputs) -> RemainingGradient:
    """One step of Adam for the weights and biases of the latents; fills in the terms of the `inputs`."""
    architecture = members.architecture
    one_by_one = len(architecture.levels) > 1 or (architecture.dead_latent_loss is not None and inputs.dead is not None)
    n_members = members.stack.n_members
    if not one_by_one or n_members == 1:
        return _descend(members, inputs)
    rests = [_descend(members.part(i, i + 1), inputs.part(i, i + 1)) for i in range(n_members)]
    names = rests[0].latent_parameters
    latent_parameters = {name: torch.cat([rest.latent_parameters[name] for rest in rests]) for name in names}
    return RemainingGradient(latent_parameters, torch.cat([rest.b_dec for rest in rests]))


def _descend(members: Members, inputs: StepInputs) -> RemainingGradient:
    stack, architecture, kernels = members.stack, members.architecture, members.kernels
    x, y, terms = inputs.x, inputs.y, inputs.terms
    (n_members, n_latents, _), scale = stack.W_dec.shape, 2 / len(x)
    with members.spans("encode"):
        activated = _activate(members, inputs)
    with members.spans("decode"):
        residuals, h = _decode(members, activated, y)
    with members.spans("backward"):
        squares = [torch.linalg.vector_norm(r, dim=(1, 2)).square_() for r in residuals]
        last, dead = residuals[-1][0], inputs.dead
        addition = None if dead is None else dead_latent_gradient(stack, architecture, x, last, dead[0], members.group)
        by_segment = residuals_by_segment(residuals, architecture.detach)
        if not h:
            h = [_along_decoder(members, segment, r) for segment, r in zip(activated, by_segment, strict=True)]
        detached = [[_decode_detached(members, segment, z, y) for z in segment.codes[1:]] for segment in activated]
        l0 = terms.l0
        if architecture.needs_l0:
            l0 = _mean_l0(activated, n_members, len(x))
            members.group.sum_(l0)
        weight, value = architecture.penalty_weight(inputs.coefficient, l0, inputs.target_l0)
    g_sum, cost = torch.empty_like(stack.b_enc), torch.zeros_like(terms.penalty)
    parameter_sums = {name: torch.empty_like(numbers) for name, numbers in stack.latent_parameters.items()}
    backwards = list[tuple[slice, SparseBackward]]()
    norms = None if architecture.unit_rows else stack.norm()
    terms.l0.zero_()
    with members.spans("backward"):
        for segment, h_segment, r, further in zip(activated, h, by_segment, detached, strict=True):
            part, v, codes, parameters = segment.part, segment.pairs.value, segment.codes, segment.latent_parameters
            by = kernels.transpose(segment.pairs, n_members * (part.stop - part.start))
            along, norm, half = None, None, _at(weight[:, None].expand(-1, n_latents), segment) / 2
            if norms is not None:
                norm = _at(norms, segment)
                in_norm = kernels.sums(by, codes[0] * architecture.slope(codes[0] * norm))
                along = (weight[:, None] * in_norm.view(n_members, -1) / norms[:, part] / len(x)).flatten()
            every_h = h_segment, *(h_further for h_further, _ in further)
            gradients = architecture.backward(v, codes, every_h, norm, half, parameters)
            g_sum[:, part] = kernels.sums(by, gradients.pre).view(n_members, -1)
            for name, by_code in gradients.parameters.items():
                parameter_sums[name][:, part] = kernels.sums(by, by_code).view(n_members, -1)
            by_latent = kernels.sums(by, architecture.cost(v, codes, norm, parameters))
            cost += by_latent.view(n_members, -1).sum(1)
            fired = by.start.diff()
            if codes[0] is not v:
                fired = kernels.sums(by, (codes[0] > 0).to(half.dtype))
            terms.fired[:, part] = fired.view(n_members, -1) > 0
            terms.l0 += fired.view(n_members, -1).sum(1).to(terms.l0.dtype) / len(x)
            backward = SparseBackward(
                by=by,
                z=codes[0],
                g=gradients.pre,
                residual=r.flatten(0, 1),
                x=x,
                centre=stack.subtracted,
                W_dec=_latents(stack, part).W_dec,
                along=along,
                scale=scale,
            )
            backwards.append((part, backward))
        auxiliary = torch.stack(squares).mean(0) - squares[-1]
        auxiliary = auxiliary + sum(square for further in detached for _, square in further)
        if addition is not None:
            g_sum[0].index_add_(0, addition.latent, addition.g)
            for name, more in addition.latent_parameters.items():
                parameter_sums[name][0].index_add_(0, addition.latent, more)
            auxiliary += addition.loss
        along_encoder = stack.along_encoder(g_sum)
        members.group.sum_(along_encoder, terms.l0, cost)
        b_dec = scale * (by_segment[0].sum(1) - along_encoder)
    terms.mse.copy_(squares[-1] / len(x))
    terms.penalty.copy_(torch.where(value.isnan(), inputs.coefficient * cost / len(x), value))
    terms.auxiliary.copy_(auxiliary / len(x))
    with members.spans("optimizer"):
        for part, backward in backwards:
            _update(members, part, backward, inputs.adam, addition)
    return RemainingGradient({name: total.mul_(scale) for name, total in parameter_sums.items()}, b_dec)


def _activate(members: Members, inputs: StepInputs) -> list[Segment]:
    """The pre-activations of every segment that the selection keeps, and their codes."""
    stack, architecture = members.stack, members.architecture
    parts, selection = segments(architecture, stack.W_dec.shape[1]), architecture.selection
    offset = offset_less_cutoff(stack, architecture)
    if isinstance(selection, LargestOfBatch):
        kept = _largest_of_batch(members, inputs, offset, parts, selection.k * len(inputs.x))
    else:
        assert not isinstance(selection, Pursuit)
        assert len(parts) == 1 or not isinstance(selection, Largest), "a row's largest codes are those of one segment"
        kept = [_encode(members, inputs.x, offset, part, selection) for part in parts]
        kept = [keep_among(pairs, selection, members.group) for pairs in kept]
    activated = list[Segment]()
    for part, pairs in zip(parts, kept, strict=True):
        segment = Segment(part, pairs, {}, ())
        per_latent = stack.per_latent() if stack.latent_parameters else {}
        parameters = {name: _at(numbers, segment) for name, numbers in per_latent.items()}
        codes = architecture.activate(pairs.value, parameters)
        activated.append(segment._replace(latent_parameters=parameters, codes=codes))
    return activated


def _encode(members: Members, x: Tensor, offset: Tensor, part: slice, selection: Selection) -> Codes:
    """The codes of a segment; copied where there are several segments, because kernels reuse their memory."""
    n_members, n_latents = offset.shape
    rounded = members.rounded and members.rounded.part(*_numbered(part, n_members))
    W_enc = _latents(members.stack, part).W_enc
    pairs = members.kernels.encode(x, W_enc, offset[:, part].flatten(), selection, rounded, n_members)
    return pairs if part == slice(0, n_latents) else Codes(*(t.clone() for t in pairs))


def _largest_of_batch(
    members: Members, inputs: StepInputs, offset: Tensor, parts: list[slice], n_kept: int
) -> list[Codes]:
    """The `n_kept` largest codes of each member over all samples and segments; their thresholds go to the terms.

    The search starts above a floor that is probably below the threshold; if it was not, it is repeated above zero.
    """
    x, threshold, found = inputs.x, inputs.terms.batch_threshold, list[Codes]()
    for floor in (SEARCH_SHARE * members.stack.batch_threshold, torch.zeros_like(threshold)):
        lowered = offset - floor[:, None]
        found = [_encode(members, x, lowered, part, Positive()) for part in parts]
        floors = [floor[_member(pairs, len(x))] for pairs in found]
        found = [pairs._replace(value=pairs.value + above) for pairs, above in zip(found, floors, strict=True)]
        of_member = [_member(pairs, len(x)) for pairs in found]
        by_member = [
            torch.cat([pairs.value[of == i] for pairs, of in zip(found, of_member, strict=True)])
            for i in range(len(threshold))
        ]
        thresholds, enough = thresholds_of_batch(by_member, n_kept, members.group)
        threshold.copy_(thresholds)
        if enough:
            break
    return [keep_pairs(pairs, pairs.value >= threshold[_member(pairs, len(x))]) for pairs in found]


def _member(pairs: Codes, batch: int) -> Tensor:
    """The member of every pair."""
    count = pairs.start[::batch].diff()
    return torch.arange(len(count), device=count.device).repeat_interleave(count, output_size=len(pairs.latent))


def _decode(members: Members, activated: list[Segment], y: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """``x_hat - y`` of each level, and, where one process has all latents of one level, ``h`` of its pairs."""
    stack, residuals = members.stack, list[Tensor]()
    if len(activated) == 1 and members.group.size == 1:
        [segment], residual = activated, members.residual
        codes, W_dec = segment.with_values(segment.codes[0]), _latents(stack, segment.part).W_dec
        return [residual], [members.kernels.decode(codes, W_dec, stack.b_dec, y, residual.flatten(0, 1))]
    b_dec, target = _start(members, y)
    for segment in activated:
        residual = torch.empty_like(members.residual)
        codes, W_dec = segment.with_values(segment.codes[0]), _latents(stack, segment.part).W_dec
        members.kernels.reconstruct(codes, W_dec, b_dec, target, residual.flatten(0, 1))
        residuals.append(residual)
        # The next level continues from this reconstruction: its residual replaces the bias less the target.
        b_dec, target = torch.zeros_like(stack.b_dec), -residual[0]
    for residual in residuals:
        members.group.sum_(residual)
    return residuals, []


def _start(members: Members, y: Tensor) -> tuple[Tensor, Tensor]:
    """The decoder biases and the target of a reconstruction; zero on all processes of the group but the first."""
    b_dec = members.stack.b_dec
    return (b_dec, y) if members.group.is_first else (torch.zeros_like(b_dec), torch.zeros_like(y))


def _along_decoder(members: Members, segment: Segment, r: Tensor) -> Tensor:
    """``r . W_dec[latent]`` of each pair."""
    W_dec = _latents(members.stack, segment.part).W_dec
    return members.kernels.along_decoder(segment.pairs, W_dec, r.flatten(0, 1))


def _decode_detached(members: Members, segment: Segment, codes: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """``h`` and the squared error of further codes, whose decoder gets no gradient."""
    residual, pairs = torch.empty_like(members.residual), segment.with_values(codes)
    W_dec = _latents(members.stack, segment.part).W_dec
    if members.group.size == 1:
        h = members.kernels.decode(pairs, W_dec, members.stack.b_dec, y, residual.flatten(0, 1))
    else:
        members.kernels.reconstruct(pairs, W_dec, *_start(members, y), residual.flatten(0, 1))
        members.group.sum_(residual)
        h = _along_decoder(members, segment, residual)
    return h, torch.linalg.vector_norm(residual, dim=(1, 2)).square_()


def _mean_l0(activated: list[Segment], n_members: int, batch: int) -> Tensor:
    """The mean number of active latents of every member, of those of this process."""
    counts = [torch.bincount(_member(s.pairs, batch)[s.codes[0] > 0], minlength=n_members) for s in activated]
    return torch.stack(counts).sum(0).to(activated[0].pairs.value.dtype) / batch


def _update(
    members: Members, part: slice, backward: SparseBackward, adam: Adam, addition: DeadLatentGradient | None
) -> None:
    """The step of a segment's latents, with the auxiliary gradient of the dead among them."""
    p, m, v = (_latents(stack, part) for stack in (members.stack, members.m, members.v))
    rounded = members.rounded and members.rounded.part(*_numbered(part, members.stack.n_members))
    latents = TrainedLatents(p, m, v, members.architecture.unit_rows, rounded)
    if addition is None:
        members.kernels.update(latents, backward, adam)
        return
    gradient = Latents(*(torch.empty_like(parameter) for parameter in p))
    members.kernels.gradients(backward, gradient)
    inside = (addition.latent >= part.start) & (addition.latent < part.stop)
    latent, g = addition.latent[inside] - part.start, addition.g[inside]
    to_enc = addition.g_x[inside] - g[:, None] * backward.centre
    for into, more in zip(gradient, (to_enc, addition.z_r[inside], g), strict=True):
        into.index_add_(0, latent, more, alpha=backward.scale)
    members.kernels.descend(latents, gradient, adam)


def _numbered(part: slice, n_members: int) -> tuple[int, int]:
    """The range of a segment among the latents of all members; several members have only one segment, all latents."""
    return part.start, part.stop if n_members == 1 else n_members * part.stop


def _latents(stack: Stack, part: slice) -> Latents:
    """A segment's latents, numbered across members."""
    every = stack.latents()
    return Latents(*(t[slice(*_numbered(part, stack.n_members))] for t in every))


def _at(values: Float[Tensor, "n_members n_latents"], segment: Segment) -> Float[Tensor, " pairs"]:
    """The value of each pair's latent."""
    return values[:, segment.part].flatten()[segment.pairs.latent]
