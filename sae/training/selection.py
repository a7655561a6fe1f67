"""Selections whose candidates are on several processes: the largest codes of a sample, or of a batch.

Every process offers its own largest codes, of which no more than the selection keeps can be kept; the threshold follows
from all of them. With one process nothing is exchanged.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae.architecture import Largest, Selection
from sae.numerics.processes import Processes
from sae.training.kernels import Codes
from sae.training.kernels.reference import select_


def select_among_(pre: Float[Tensor, "*rows n_latents"], selection: Selection, group: Processes) -> Tensor:
    """The codes of dense pre-activations, in place, where `group` has the pre-activations of the other latents."""
    if group.size == 1 or not isinstance(selection, Largest):
        return select_(pre, selection)
    k, n_own = selection.k, min(selection.k, pre.shape[-1])
    own = pre.topk(n_own, dim=-1)
    offered = pre.new_full((*pre.shape[:-1], k), -torch.inf)
    offered[..., :n_own] = own.values
    n_kept = _n_kept(offered, group)
    kept = torch.arange(n_own, device=pre.device) < n_kept[..., None]
    return pre.zero_().scatter_(-1, own.indices, torch.where(kept, own.values, 0)).relu_()


def keep_among(codes: Codes, selection: Selection, group: Processes) -> Codes:
    """Those of the kept codes of each row that are still kept next to the codes of the other processes."""
    if group.size == 1 or not isinstance(selection, Largest):
        return codes
    count = codes.start.diff()
    row = torch.arange(len(count), device=count.device).repeat_interleave(count, output_size=len(codes.latent))
    place = torch.arange(len(row), device=row.device) - codes.start[row]
    offered = codes.value.new_full((len(count), selection.k), -torch.inf)
    offered[row, place] = codes.value
    offered = offered.sort(-1, descending=True).values
    n_kept = _n_kept(offered, group)
    least = torch.where(n_kept > 0, offered.gather(-1, (n_kept - 1).clamp_min(0)[:, None])[:, 0], torch.inf)
    above, equal = codes.value > least[row], codes.value == least[row]
    # Of equal codes the leftmost are kept, as many as there is room for beside the larger ones.
    room = n_kept - torch.zeros_like(n_kept).index_add_(0, row, above.to(n_kept.dtype))
    before = torch.nn.functional.pad(torch.cumsum(equal, 0), (1, 0))
    place_among_equal = before[:-1] - before[codes.start[:-1]][row]
    return keep_pairs(codes, above | (equal & (place_among_equal < room[row])))


def _n_kept(offered: Float[Tensor, "*rows k"], group: Processes) -> Tensor:
    """How many of its offered codes, in descending order, this process keeps in each row.

    Of codes that equal the threshold the first processes keep theirs, so that `k` are kept in all.
    """
    every = torch.stack(group.gather(offered))
    k = offered.shape[-1]
    threshold = every.movedim(0, -2).flatten(-2).topk(k, dim=-1).values[..., -1:]
    above, equal = (every > threshold).sum(-1), (every == threshold).sum(-1)
    room = k - above.sum(0) - equal[: group.rank].sum(0)
    return above[group.rank] + equal[group.rank].minimum(room.clamp_min(0))


def keep_pairs(codes: Codes, kept: Bool[Tensor, " pairs"]) -> Codes:
    """Some of the pairs."""
    before = torch.nn.functional.pad(torch.cumsum(kept, 0), (1, 0))
    return Codes(before[codes.start], codes.latent[kept], codes.value[kept])


def thresholds_of_batch(
    codes: Sequence[Tensor], n_kept: int, group: Processes
) -> tuple[Float[Tensor, " n_members"], bool]:
    """The `n_kept`-th largest of the codes of each member, one vector each, and whether every member has so many.

    A member with fewer has a threshold of zero.
    """
    thresholds, enough = list[Tensor](), True
    for own in codes:
        every = torch.cat(group.gather_rows(own if group.size == 1 else at_most(own, n_kept)))
        thresholds.append(kth_largest(every, n_kept))
        enough &= len(every) >= n_kept
    return torch.stack(thresholds), enough


def at_most(codes: Float[Tensor, " codes"], n: int) -> Float[Tensor, " kept"]:
    """The `n` largest codes, in any order; all where there are no more."""
    return codes if len(codes) <= n else codes.topk(n, sorted=False).values


def kth_largest(codes: Float[Tensor, " codes"], k: int) -> Tensor:
    """The `k`-th largest code; zero where there are fewer."""
    if len(codes) < k:
        return codes.new_zeros(())
    return codes.kthvalue(len(codes) - k + 1).values
