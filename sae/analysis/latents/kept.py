"""The best few of many groups, of entries that come a batch at a time."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Kept:
    """The `n` entries with the least key in each group, the least first; places that nothing has filled have an
    infinite key.

    Keys that are activations with their sign turned keep the largest; keys that are drawn keep a uniform sample
    without replacement (Vitter 1985, in the form of keeping the smallest of independent uniforms). `columns` go with
    the entries, -1 where there is none.
    """

    def __init__(self, n_groups: int, n: int, columns: tuple[str, ...]) -> None:
        self.n = n
        self.key = torch.full((n_groups, n), torch.inf)
        self.columns = {name: torch.full((n_groups, n), -1, dtype=torch.int32) for name in columns}
        self.value = torch.zeros(n_groups, n)

    @property
    def filled(self) -> Tensor:
        """Which places hold an entry, ``[n_groups, n]``."""
        return self.key < torch.inf

    def wanted(self, group: Int[Tensor, " entries"], key: Float[Tensor, " entries"]) -> Tensor:
        """Which entries have a key that is still good enough."""
        return key < self.key[group, -1]

    def offer(
        self,
        group: Int[Tensor, " entries"],
        key: Float[Tensor, " entries"],
        value: Float[Tensor, " entries"],
        **columns: Int[Tensor, " entries"],
    ) -> None:
        """Keeps of the entries what belongs among the best. Of equal keys the one that came first stays."""
        passing = self.wanted(group, key).nonzero()[:, 0]
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
        best = order[rank < self.n]  # a touched group has at least `n` entries, empty places among them
        self.key[touched] = key[best].view(-1, self.n)
        self.value[touched] = torch.cat([self.value[touched].flatten(), value[passing]])[best].view(-1, self.n)
        for name, mine in self.columns.items():
            mine[touched] = torch.cat([mine[touched].flatten(), columns[name][passing].int()])[best].view(-1, self.n)
