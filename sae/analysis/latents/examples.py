"""Where latents fire: the strongest places, a sample of every stretch between nothing and the most, and silence.

The intervals are those of Bricken et al. 2023: equal parts between 0 and the largest activation. The largest is known
only in the end, so what is kept on the way is a sample of each bin of :class:`~sae.analysis.latents.firing.Tally`; an
interval is then drawn from the samples of its bins, each entry by how many it stands for (weighted sampling without
replacement, Efraimidis and Spirakis 2006). Where a bin reaches over the border of an interval, an interval may have
fewer examples than it could.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae.analysis.latents.firing import N_BINS, Fired
from sae.analysis.latents.kept import Kept
from sae.analysis.latents.reading import Piece
from sae.numerics.seeds import generator

APART = 32
"""Of one row, places that are nearer to each other than this are one example."""
PLACE = ("row", "position")
TOP, SILENT = 0, 99
"""Groups of examples; between them, an interval of activation has its number, the highest 1."""
N_RANDOM = 64
"""Vectors that are drawn whoever is active there, for examples of silence."""


@dataclass(frozen=True, eq=False)
class LatentExamples:
    """Places in the held-out rows, each an example of one latent."""

    latent: Int[Tensor, " examples"]
    """Its number among those that are shown."""
    group: Int[Tensor, " examples"]
    row: Int[Tensor, " examples"]
    position: Int[Tensor, " examples"]
    value: Float[Tensor, " examples"]
    """The activation there; zero where it is to be seen."""

    def __len__(self) -> int:
        return len(self.latent)

    def __getitem__(self, index: Tensor) -> LatentExamples:
        return LatentExamples(*(column[index] for column in self._columns()))

    def _columns(self) -> tuple[Tensor, ...]:
        return self.latent, self.group, self.row, self.position, self.value

    @classmethod
    def sorted(cls, parts: list[LatentExamples]) -> LatentExamples:
        """Several together: by latent, then by group, then the strongest first."""
        whole = cls(*(torch.cat(column) for column in zip(*(p._columns() for p in parts), strict=True)))
        order = whole.value.argsort(descending=True, stable=True)
        for column in (whole.group, whole.latent):
            order = order[column[order].argsort(stable=True)]
        return whole[order]


class Collected:
    """What a pass over the pieces leaves to choose examples from: the strongest places of every latent; samples of
    every bin of activation of those that are `shown`; and a few vectors that were drawn, whoever is active there."""

    def __init__(self, n_latents: int, shown: Int[Tensor, " n_shown"], n_top: int, n_sampled: int, seed: int) -> None:
        self.shown, self.seed = shown, seed
        self.index = torch.full((n_latents,), -1, dtype=torch.int64)
        self.index[shown] = torch.arange(len(shown))
        self.top = Kept(n_latents, n_top, (*PLACE, "token"))
        self.bins = Kept(len(shown) * N_BINS, n_sampled, PLACE)
        self.random = Kept(1, N_RANDOM, PLACE)
        self.draw = generator("explore", "collected", seed)

    def add(self, piece: Piece, fired: Fired, bins: Int[Tensor, " entries"]) -> None:
        """Takes in a piece; `bins` are those of its entries."""
        self._strongest(piece, fired)
        key = torch.rand(len(fired.value), generator=self.draw)
        group = self.index[fired.latent] * N_BINS + bins
        mine = (group >= 0).nonzero()[:, 0]
        mine = mine[self.bins.wanted(group[mine], key[mine])]
        self.bins.offer(group[mine], key[mine], fired.value[mine], **_at(piece, fired.vector[mine]))
        any_vector = torch.rand(len(piece.row), generator=self.draw)
        at = torch.arange(len(piece.row))
        self.random.offer(torch.zeros_like(at), any_vector, torch.zeros_like(any_vector), **_at(piece, at))

    def _strongest(self, piece: Piece, fired: Fired) -> None:
        good = self.top.wanted(fired.latent, -fired.value).nonzero()[:, 0]
        place = _at(piece, fired.vector[good])
        good = good[apart(fired.latent[good], place["row"], place["position"], fired.value[good])]
        vector, value = fired.vector[good], fired.value[good]
        token = torch.full_like(vector, -1) if piece.token is None else piece.token[vector]
        self.top.offer(fired.latent[good], -value, value, token=token, **_at(piece, vector))

    def strongest(self) -> LatentExamples:
        """The strongest places of the latents that are shown."""
        latent, rank = self.top.filled[self.shown].nonzero(as_tuple=True)
        row, position = (self.top.columns[name][self.shown][latent, rank].long() for name in PLACE)
        value = self.top.value[self.shown][latent, rank]
        return LatentExamples(latent, torch.full_like(latent, TOP), row, position, value)

    def intervals(
        self, n: int, n_each: int, most: Float[Tensor, " n_latents"], histogram: Tensor
    ) -> list[LatentExamples]:
        """A sample of each of `n` equal parts between 0 and the largest activation."""
        share = self.bins.value.view(len(self.shown), -1) / most[self.shown][:, None].clamp_min(1e-30)
        interval = n + 1 - (share * n).ceil().long().clamp(1, n)
        return [self.drawn(n_each, histogram, i, interval == i) for i in range(1, n + 1)]

    def drawn(
        self, n: int, histogram: Tensor, group: int, among: Bool[Tensor, "n_shown kept"] | None = None
    ) -> LatentExamples:
        """`n` of the places where each latent fires, as from all of them or from those `among` which one looks."""
        filled = self.bins.filled
        each = histogram[self.shown].view(-1, 1) / filled.sum(1, keepdim=True).clamp_min(1)
        u = torch.rand(filled.shape, generator=generator("explore", "drawn", self.seed, group))
        key = (-u.log() / each).masked_fill(~filled, torch.inf).view(len(self.shown), -1)
        key = key if among is None else key.masked_fill(~among, torch.inf)
        best = key.topk(min(n, key.shape[1]), dim=1, largest=False)
        latent, rank = (best.values < torch.inf).nonzero(as_tuple=True)
        at = best.indices[latent, rank]
        row, position = (self.bins.columns[name].view(len(self.shown), -1)[latent, at].long() for name in PLACE)
        value = self.bins.value.view(len(self.shown), -1)[latent, at]
        return LatentExamples(latent, torch.full_like(latent, group), row, position, value)

    def silent(self, n: int) -> LatentExamples:
        """Vectors that were drawn, `n` for each latent: it may turn out to be active there."""
        there = int(self.random.filled.sum())
        at = (torch.arange(n) + 7 * torch.arange(len(self.shown))[:, None]).flatten() % max(1, there)
        latent = torch.arange(len(self.shown)).repeat_interleave(n)
        row, position = (self.random.columns[name][0, at].long() for name in PLACE)
        return LatentExamples(latent, torch.full_like(latent, SILENT), row, position, torch.zeros(len(latent)))


def _at(piece: Piece, vector: Int[Tensor, " entries"]) -> dict[str, Tensor]:
    return {"row": piece.row[vector], "position": piece.position[vector]}


def apart(
    latent: Int[Tensor, " entries"],
    row: Int[Tensor, " entries"],
    position: Int[Tensor, " entries"],
    value: Float[Tensor, " entries"],
) -> Int[Tensor, " kept"]:
    """The entries of which no two have one latent and one row and are nearer than :data:`APART`.

    Of each stretch of so many positions the largest stays, and then only where neither neighbouring stretch has a
    larger one too near.
    """
    if len(latent) == 0:
        return latent
    stretches = int(position.max()) // APART + 2  # one that is always empty parts the rows
    place = (latent * (int(row.max()) + 1) + row) * stretches + position // APART
    order = value.argsort(stable=True)
    order = order[place[order].argsort(stable=True)]
    place = place[order]
    last = torch.ones_like(place, dtype=torch.bool)
    last[:-1] = place[1:] != place[:-1]
    best, place = order[last], place[last]
    at, strength = position[best], value[best]
    near = (place[1:] == place[:-1] + 1) & (at[1:] - at[:-1] < APART)
    good = torch.ones_like(place, dtype=torch.bool)
    good[:-1] &= ~(near & (strength[1:] > strength[:-1]))
    good[1:] &= ~(near & (strength[1:] <= strength[:-1]))
    return best[good]
