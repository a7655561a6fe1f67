"""How a stack is divided over processes: its members first, then the latents of each.

With p processes and n members, p is cut into as many equal groups as there are members, or into the largest number of
equal groups that is smaller. Members go to the groups in turn; a group of several processes divides the latents of its
members, evenly in every level of a nested dictionary. A process holds the parameters and moments of its latents alone.
It encodes every batch for them and decodes them; one sum over the group gives the reconstruction. Every gradient of a
latent is then local. The biases `b_dec` are on all processes of a group, which change them in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from jaxtyping import Int
from torch import Tensor

from sae.architecture import Architecture, Pursuit
from sae.numerics.processes import ALONE, Processes
from sae.registry import UserError


@dataclass(frozen=True, eq=False)
class Division:
    """The members and latents of a stack that this process trains."""

    n_members: int
    """The number of members of the whole stack."""
    n_latents: int
    """The number of latents of a whole dictionary."""
    members: range
    """The members that this process trains, in the order of the stack."""
    latents: Int[Tensor, " n"]
    """The latents that it trains, ascending."""
    levels: tuple[int, ...] = ()
    """The widths of nested dictionaries, counted in the latents of this process, where it has not all of them."""
    most: int = 0
    """The largest number of latents on any process of the group."""
    processes: Processes = ALONE
    """All processes that train the stack."""
    group: Processes = ALONE
    """Those of them that share these members."""

    @classmethod
    def whole(cls, n_members: int, n_latents: int) -> Division:
        """The division over one process."""
        return cls(n_members, n_latents, range(n_members), torch.arange(n_latents), most=n_latents)

    @classmethod
    def of(cls, n_members: int, n_latents: int, architecture: Architecture, processes: Processes) -> Division:
        """The part of this process.

        Raises `UserError` where latents would have to be divided and cannot be: for matching pursuit, where they are
        sorted by frequency, and where a level has fewer latents than there are processes.
        """
        whole = cls.whole(n_members, n_latents)
        if processes.size == 1:
            return whole
        n_groups = _n_groups(processes.size, n_members)
        group, each = processes.part(n_groups), processes.size // n_groups
        members = range(processes.rank // each, n_members, n_groups)
        if each == 1:
            return replace(whole, members=members, processes=processes)
        if isinstance(architecture.selection, Pursuit):
            raise UserError(
                f'kind = "matching_pursuit": the latents of one dictionary are not divided over {each} processes, '
                "because each depends on those before it; train on one, or as many dictionaries as there are processes"
            )
        if architecture.by_frequency:
            raise UserError(
                f'order = "frequency": the latents of one dictionary are not divided over {each} processes, because '
                "sorting would move them between processes; train on one, as many dictionaries as there are processes, "
                'or set order = "fixed"'
            )
        levels = list(pairwise((0, *(architecture.levels or (n_latents,)))))
        parts = [_part(level, each, group.rank) for level in levels]
        widths = torch.tensor([len(part) for part in parts]).cumsum(0).tolist()
        return cls(
            n_members=n_members,
            n_latents=n_latents,
            members=members,
            latents=torch.cat([torch.arange(part.start, part.stop) for part in parts]),
            levels=tuple(widths) if architecture.levels else (),
            most=max(sum(len(_part(level, each, rank)) for level in levels) for rank in range(each)),
            processes=processes,
            group=group,
        )

    @property
    def is_whole(self) -> bool:
        """Whether this process trains the whole stack."""
        return self.processes.size == 1

    def local(self, architecture: Architecture) -> Architecture:
        """The architecture with levels counted in the latents of this process."""
        return architecture if self.group.size == 1 else replace(architecture, levels=self.levels)

    def of_all_members(self, by_member: Tensor) -> Tensor:
        """What each process has for its own members, with the member axis first, for all members in their order."""
        if self.is_whole:
            return by_member
        every = self.processes.gather_rows(by_member)
        return torch.stack([every[rank][at] for _, rank, at in self.owners()])

    def owners(self) -> Iterator[tuple[int, int, int]]:
        """For each member, the first process that trains it, and its place among the members of that process."""
        each = self.group.size
        n_groups = self.processes.size // each
        for member in range(self.n_members):
            yield member, member % n_groups * each, member // n_groups

    def assemble(self, here: Tensor | None, member: int, by_latent: bool) -> Tensor | None:
        """A tensor of one member, on the CPU of the first process; None on the others.

        `here` is that of this process, where it trains the member; with `by_latent`, its first axis is that of latents.
        """
        first = next(rank for m, rank, _ in self.owners() if m == member)
        if self.group.size == 1 or not by_latent:
            return self.processes.send_to_first(here, first)
        whole: Tensor | None = None
        for rank in range(first, first + self.group.size):
            is_sender = rank == self.processes.rank
            latents = self.processes.send_to_first(self.latents if is_sender else None, rank)
            values = self.processes.send_to_first(here if is_sender else None, rank)
            if latents is not None and values is not None:
                whole = values.new_empty(self.n_latents, *values.shape[1:], device="cpu") if whole is None else whole
                whole[latents] = values
        return whole


def _n_groups(n_processes: int, n_members: int) -> int:
    """The largest number of equal groups of processes that is no larger than the number of members."""
    return max(n for n in range(1, n_processes + 1) if n_processes % n == 0 and n <= n_members)


def _part(level: tuple[int, int], n_parts: int, i: int) -> range:
    """The i-th of `n_parts` parts of a range, whose sizes differ by one at most."""
    first, last = level
    if last - first < n_parts:
        raise UserError(
            f"n_latents: {last - first} latents cannot be divided over {n_parts} processes; use more latents or fewer "
            "processes"
        )
    return range(first + (last - first) * i // n_parts, first + (last - first) * (i + 1) // n_parts)
