"""Streaming selection of the best entries of many groups."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


class BestEntries:
    """The `n` entries with the smallest keys in each group, in ascending order; empty slots have an infinite key.

    Negated activations as keys select the largest activations; random keys select a uniform sample without replacement
    (Vitter 1985, in the form of keeping the smallest of independent uniforms). `columns` are stored with the entries,
    -1 in empty slots.
    """

    def __init__(self, n_groups: int, n: int, columns: tuple[str, ...]) -> None:
        self.n = n
        self.key = torch.full((n_groups, n), torch.inf)
        self.columns = {name: torch.full((n_groups, n), -1, dtype=torch.int32) for name in columns}
        self.value = torch.zeros(n_groups, n)

    @property
    def filled(self) -> Tensor:
        """Which slots hold an entry, ``[n_groups, n]``."""
        return self.key < torch.inf

    def admits(self, group: Int[Tensor, " entries"], key: Float[Tensor, " entries"]) -> Tensor:
        """Which entries have a smaller key than the last entry of their group."""
        return key < self.key[group, -1]

    def offer(
        self,
        group: Int[Tensor, " entries"],
        key: Float[Tensor, " entries"],
        value: Float[Tensor, " entries"],
        **columns: Int[Tensor, " entries"],
    ) -> None:
        """Stores those entries that are among the best of their group; of equal keys, the earlier one is kept."""
        passing = self.admits(group, key).nonzero()[:, 0]
        if len(passing) == 0:
            return
        group, key = group[passing], key[passing]
        touched = group.unique()
        group = torch.cat([touched.repeat_interleave(self.n), group])
        key = torch.cat([self.key[touched].flatten(), key])
        order = key.argsort(stable=True)
        order = order[group[order].argsort(stable=True)]
        group = group[order]
        first = torch.searchsorted(group, touched)
        size = torch.cat([first[1:], first.new_tensor([len(group)])]) - first
        rank = torch.arange(len(group)) - first.repeat_interleave(size)
        best = order[rank < self.n]  # a touched group has at least `n` entries, empty slots included
        self.key[touched] = key[best].view(-1, self.n)
        self.value[touched] = torch.cat([self.value[touched].flatten(), value[passing]])[best].view(-1, self.n)
        for name, column in self.columns.items():
            both = torch.cat([column[touched].flatten(), columns[name][passing].int()])
            column[touched] = both[best].view(-1, self.n)
