"""The same step on active latents alone: after the encoder, four of five products touch nothing else.

The mathematics is that of :mod:`sae.training.dense_step`, pair by pair of (row, candidate), for members whose rows
and latents are
numbered through; the gradients of a latent's weights meet Adam where they arise, so that no gradient matrix exists.
Where a dictionary has levels, or dead latents that learn, members are taken one by one and level by level.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae.architecture import Architecture, LargestOfBatch, LatentParameters, Positive, Pursuit, Selection
from sae.numerics.profiler import NO_SPANS, Spans
from sae.training.aux_losses import DeadLatentGradient, dead_latent_gradient
from sae.training.dense_step import SEARCH_SHARE, kth_largest, offset_less_cutoff, residuals_by_segment, segments
from sae.training.gradients import Terms
from sae.training.kernels import Adam, Codes, Kernels, Latents, Rounded, SparseBackward
from sae.training.stack import Stack


class RemainingGradient(NamedTuple):
    """The gradients that no kernel has used up."""

    latent_parameters: Mapping[str, Float[Tensor, "n_members n_latents"]]
    b_dec: Float[Tensor, "n_members d_in"]


@dataclass
class Members:
    """Some members with all that a step needs of them."""

    kernels: Kernels
    stack: Stack
    m: Stack
    v: Stack
    architecture: Architecture
    coefficient: Float[Tensor, " n_members"]
    target_l0: Float[Tensor, " n_members"]
    residual: Float[Tensor, "n_members batch d_in"]
    terms: Terms
    rounded: Rounded | None = None
    dead: Bool[Tensor, "n_members n_latents"] | None = None
    spans: Spans = NO_SPANS

    def part(self, first: int, last: int) -> Members:
        """Some of them in a row, as views."""
        n_latents, cut = self.stack.W_dec.shape[1], slice(first, last)
        return Members(
            self.kernels,
            self.stack.part(first, last),
            self.m.part(first, last),
            self.v.part(first, last),
            self.architecture,
            self.coefficient[cut],
            self.target_l0[cut],
            self.residual[cut],
            self.terms.part(first, last),
            None if self.rounded is None else self.rounded.part(first * n_latents, last * n_latents),
            None if self.dead is None else self.dead[cut],
            self.spans,
        )


class Segment(NamedTuple):
    """The candidates of the same latents of every member, and what was read from them."""

    part: slice
    pairs: Codes
    latent_parameters: LatentParameters
    codes: tuple[Tensor, ...]

    def of(self, value: Tensor) -> Codes:
        return self.pairs._replace(value=value)


def sparse_descend(
    members: Members, x: Float[Tensor, "batch d_in"], y: Float[Tensor, "batch d_in"], adam: Adam
) -> RemainingGradient:
    """One step of `adam` for the latents' rows and biases, where codes of `x` are to reconstruct `y`."""
    architecture = members.architecture
    alone = len(architecture.levels) > 1 or (architecture.dead_latent_loss is not None and members.dead is not None)
    n_members = members.stack.n_members
    if not alone or n_members == 1:
        return _descend(members, x, y, adam)
    rests = [_descend(members.part(i, i + 1), x, y, adam) for i in range(n_members)]
    own = {name: torch.cat([rest.latent_parameters[name] for rest in rests]) for name in rests[0].latent_parameters}
    return RemainingGradient(own, torch.cat([rest.b_dec for rest in rests]))


def _descend(members: Members, x: Tensor, y: Tensor, adam: Adam) -> RemainingGradient:
    stack, architecture, kernels, terms = members.stack, members.architecture, members.kernels, members.terms
    (n_members, n_latents, _), scale = stack.W_dec.shape, 2 / len(x)
    with members.spans("encode"):
        read = _read(members, x)
    with members.spans("decode"):
        residuals, h = _decode(members, read, y)
    with members.spans("backward"):
        squares = [torch.linalg.vector_norm(r, dim=(1, 2)).square_() for r in residuals]
        left, dead = residuals[-1][0], members.dead
        addition = None if dead is None else dead_latent_gradient(stack, architecture, x, left, dead[0])
        pulls = residuals_by_segment(residuals)
        if len(pulls) > 1:
            h = [_along_decoder(members, one, r) for one, r in zip(read, pulls, strict=True)]
        beyond = [[_beyond(members, one, z, y) for z in one.codes[1:]] for one in read]
        l0 = _mean_l0(read, n_members, n_latents, len(x)) if architecture.needs_l0 else terms.l0
        weight, value = architecture.penalty_weight(members.coefficient, l0, members.target_l0)
    g_sum, cost = torch.empty_like(stack.b_enc), torch.zeros_like(terms.penalty)
    own_sum = {name: torch.empty_like(numbers) for name, numbers in stack.latent_parameters.items()}
    todo = list[tuple[slice, SparseBackward]]()
    norms = None if architecture.unit_rows else stack.norm()
    terms.l0.zero_()
    with members.spans("backward"):
        for one, h_one, r, further in zip(read, h, pulls, beyond, strict=True):
            by = kernels.transpose(one.pairs, n_members * (one.part.stop - one.part.start))
            along, norm, half = None, None, _at(weight[:, None].expand(-1, n_latents), one) / 2
            if norms is not None:
                norm = _at(norms, one)
                in_norm = kernels.sums(by, one.codes[0] * architecture.slope(one.codes[0] * norm))
                along = (weight[:, None] * in_norm.view(n_members, -1) / norms[:, one.part] / len(x)).flatten()
            every_h = h_one, *(found[0] for found in further)
            pulled = architecture.backward(one.pairs.value, one.codes, every_h, norm, half, one.latent_parameters)
            for total, by_code in (
                (g_sum, pulled.pre),
                *((own_sum[name], own) for name, own in pulled.parameters.items()),
            ):
                total[:, one.part] = kernels.sums(by, by_code).view(n_members, -1)
            each = kernels.sums(by, architecture.cost(one.pairs.value, one.codes, norm, one.latent_parameters))
            cost += each.view(n_members, -1).sum(1)
            fired = by.start.diff()
            if one.codes[0] is not one.pairs.value:
                fired = kernels.sums(by, (one.codes[0] > 0).to(half.dtype))
            terms.fired[:, one.part] = fired.view(n_members, -1) > 0
            terms.l0 += fired.view(n_members, -1).sum(1).to(terms.l0.dtype) / len(x)
            W_dec = _latents(stack, one.part).W_dec
            pull = SparseBackward(
                by, one.codes[0], pulled.pre, r.flatten(0, 1), x, stack.subtracted, W_dec, along, scale
            )
            todo.append((one.part, pull))
        auxiliary = torch.stack(squares).mean(0) - squares[-1] + sum(found[1] for some in beyond for found in some)
        if addition is not None:
            g_sum[0].index_add_(0, addition.latent, addition.g)
            for name, more in addition.latent_parameters.items():
                own_sum[name][0].index_add_(0, addition.latent, more)
            auxiliary += addition.loss
        of_b_dec = scale * (pulls[0].sum(1) - stack.along_encoder(g_sum))
    terms.mse.copy_(squares[-1] / len(x))
    terms.penalty.copy_(torch.where(value.isnan(), members.coefficient * cost / len(x), value))
    terms.auxiliary.copy_(auxiliary / len(x))
    with members.spans("optimizer"):
        for part, pull in todo:
            _update(members, part, pull, adam, addition)
    return RemainingGradient({name: total.mul_(scale) for name, total in own_sum.items()}, of_b_dec)


def _read(members: Members, x: Tensor) -> list[Segment]:
    """The candidates of every segment that the selection keeps, and their codes."""
    stack, architecture = members.stack, members.architecture
    parts, selection = segments(architecture, stack.W_dec.shape[1]), architecture.selection
    offset = offset_less_cutoff(stack, architecture)
    if isinstance(selection, LargestOfBatch):
        kept = _largest_of_batch(members, x, offset, parts, selection.k * len(x))
    else:
        assert not isinstance(selection, Pursuit)
        kept = [_encode(members, x, offset, part, selection) for part in parts]
    read = list[Segment]()
    for part, pairs in zip(parts, kept, strict=True):
        bare = Segment(part, pairs, {}, ())
        own = (
            {name: _at(numbers, bare) for name, numbers in stack.per_latent().items()}
            if stack.latent_parameters
            else {}
        )
        read.append(bare._replace(latent_parameters=own, codes=architecture.activate(pairs.value, own)))
    return read


def _encode(members: Members, x: Tensor, offset: Tensor, part: slice, selection: Selection) -> Codes:
    """The codes of a segment. Kernels use their memory again, so that those of one among several are copied."""
    n_members, n_latents = offset.shape
    rounded = members.rounded and members.rounded.part(*_numbered(part, n_members))
    W_enc = _latents(members.stack, part).W_enc
    pairs = members.kernels.encode(x, W_enc, offset[:, part].flatten(), selection, rounded, n_members)
    return pairs if part == slice(0, n_latents) else Codes(*(t.clone() for t in pairs))


def _largest_of_batch(members: Members, x: Tensor, offset: Tensor, parts: list[slice], wanted: int) -> list[Codes]:
    """The `wanted` largest codes of each member over all rows and segments; their bars go to the terms.

    They are looked for above a bar that is likely to be below theirs, and where it was not, once more above zero.
    """
    bar, found = members.terms.batch_threshold, list[Codes]()
    for likely in (SEARCH_SHARE * members.stack.batch_threshold, torch.zeros_like(bar)):
        raised = offset - likely[:, None]
        found = [_encode(members, x, raised, part, Positive()) for part in parts]
        floors = [likely[_member(pairs, len(x))] for pairs in found]
        found = [one._replace(value=one.value + floor) for one, floor in zip(found, floors, strict=True)]
        enough = True
        for i in range(len(bar)):
            codes = torch.cat([one.value[_member(one, len(x)) == i] for one in found])
            bar[i] = kth_largest(codes, wanted)
            enough &= len(codes) >= wanted
        if enough:
            break
    return [_above(one, bar[_member(one, len(x))]) for one in found]


def _above(pairs: Codes, bar: Tensor) -> Codes:
    """The pairs whose code is not below the bar."""
    kept = pairs.value >= bar
    before = torch.zeros(len(kept) + 1, dtype=torch.int64, device=kept.device)
    torch.cumsum(kept, 0, out=before[1:])
    return Codes(before[pairs.start], pairs.latent[kept], pairs.value[kept])


def _member(pairs: Codes, batch: int) -> Tensor:
    """The member of every pair."""
    per = pairs.start[::batch].diff()
    return torch.arange(len(per), device=per.device).repeat_interleave(per, output_size=len(pairs.latent))


def _decode(members: Members, read: list[Segment], y: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """``x_hat - y`` of each level, and, where there is one level, ``h`` of its pairs."""
    stack, residuals = members.stack, list[Tensor]()
    if len(read) == 1:
        W_dec, residual = _latents(stack, read[0].part).W_dec, members.residual
        h = members.kernels.decode(read[0].of(read[0].codes[0]), W_dec, stack.b_dec, y, residual.flatten(0, 1))
        return [residual], [h]
    b_dec, target = stack.b_dec, y
    for one in read:
        residual = torch.empty_like(members.residual)
        W_dec = _latents(stack, one.part).W_dec
        members.kernels.decode(one.of(one.codes[0]), W_dec, b_dec, target, residual.flatten(0, 1))
        residuals.append(residual)
        # What was decoded so far, less the target, takes the place of a bias less a target.
        b_dec, target = torch.zeros_like(stack.b_dec), -residual[0]
    return residuals, []


def _along_decoder(members: Members, one: Segment, r: Tensor) -> Tensor:
    """``r . W_dec[latent]`` of each pair: codes of nothing, decoded beside a target of -r."""
    nothing, zero = one.of(torch.zeros_like(one.pairs.value)), torch.zeros_like(members.stack.b_dec)
    W_dec = _latents(members.stack, one.part).W_dec
    return members.kernels.decode(nothing, W_dec, zero, -r[0], members.residual.flatten(0, 1))


def _beyond(members: Members, one: Segment, codes: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """``h`` and the squared error of further codes."""
    residual = torch.empty_like(members.residual)
    W_dec = _latents(members.stack, one.part).W_dec
    h = members.kernels.decode(one.of(codes), W_dec, members.stack.b_dec, y, residual.flatten(0, 1))
    return h, torch.linalg.vector_norm(residual, dim=(1, 2)).square_()


def _mean_l0(read: list[Segment], n_members: int, n_latents: int, batch: int) -> Tensor:
    """The mean number of active latents of every member."""
    each = [torch.bincount(_member(one.pairs, batch)[one.codes[0] > 0], minlength=n_members) for one in read]
    return torch.stack(each).sum(0).to(read[0].pairs.value.dtype) / batch


def _update(
    members: Members, part: slice, pull: SparseBackward, adam: Adam, addition: DeadLatentGradient | None
) -> None:
    """The step of a segment's latents, with what the dead among them learn."""
    unit_rows, n_members = members.architecture.unit_rows, members.stack.n_members
    p, m, v = (_latents(state, part) for state in (members.stack, members.m, members.v))
    rounded = members.rounded and members.rounded.part(*_numbered(part, n_members))
    if addition is None:
        members.kernels.update(pull, p, m, v, adam, unit_rows, rounded)
        return
    gradient = Latents(*(torch.empty_like(own) for own in p))
    members.kernels.gradients(pull, gradient)
    inside = (addition.latent >= part.start) & (addition.latent < part.stop)
    latent, g = addition.latent[inside] - part.start, addition.g[inside]
    to_enc = addition.g_x[inside] - g[:, None] * pull.centre
    for into, more in zip(gradient, (to_enc, addition.z_r[inside], g), strict=True):
        into.index_add_(0, latent, more, alpha=pull.scale)
    members.kernels.descend(p, m, v, gradient, adam, unit_rows, rounded)


def _numbered(part: slice, n_members: int) -> tuple[int, int]:
    """Where a segment begins and ends among the latents of all members, which it is part of only where there is one."""
    return part.start, part.stop if n_members == 1 else n_members * part.stop


def _latents(stack: Stack, part: slice) -> Latents:
    """A segment's latents, numbered through."""
    every = stack.latents()
    return Latents(*(t[slice(*_numbered(part, stack.n_members))] for t in every))


def _at(numbers: Float[Tensor, "n_members n_latents"], one: Segment) -> Float[Tensor, " pairs"]:
    """Each pair's own."""
    return numbers[:, one.part].flatten()[one.pairs.latent]
