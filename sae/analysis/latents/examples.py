"""Examples of latents: the strongest activations, samples of every activation interval, and inactive positions.

The intervals are those of Bricken et al. 2023: equal parts between 0 and the largest activation. The largest is known
only after the pass, so a sample of each bin of :class:`~sae.analysis.latents.firing.Tally` is collected, and an
interval is drawn from the samples of its bins, each entry weighted by the number of activations that it represents
(weighted sampling without replacement, Efraimidis and Spirakis 2006). If a bin crosses the border of an interval, the
interval may have fewer examples than exist.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae.analysis.latents.best_entries import BestEntries
from sae.analysis.latents.firing import N_BINS, Fired
from sae.analysis.latents.reading import Piece
from sae.numerics.seeds import generator

APART = 32
"""Positions of one row closer than this count as one example."""
PLACE = ("row", "position")
"""The columns that locate an example."""
TOP, SILENT = 0, 99
"""Groups of examples: the strongest, and those without activation; activation intervals are 1 (the highest), 2, ..."""
N_RANDOM = 64
"""Random vectors that are collected as candidates for examples without activation."""


@dataclass(frozen=True, eq=False)
class LatentExamples:
    """Positions in the held-out rows, each an example of one latent."""

    latent: Int[Tensor, " examples"]
    """The latent, as an index into the shown latents."""
    group: Int[Tensor, " examples"]
    """`TOP`, `SILENT`, or the number of an activation interval."""
    row: Int[Tensor, " examples"]
    """The held-out row."""
    position: Int[Tensor, " examples"]
    """The position in the row."""
    value: Float[Tensor, " examples"]
    """The activation; zero in the group `SILENT`, where it is not yet known."""

    def __len__(self) -> int:
        return len(self.latent)

    def __getitem__(self, index: Tensor) -> LatentExamples:
        return LatentExamples(*(column[index] for column in self._columns()))

    def _columns(self) -> tuple[Tensor, ...]:
        return self.latent, self.group, self.row, self.position, self.value

    @classmethod
    def sorted(cls, parts: list[LatentExamples]) -> LatentExamples:
        """Concatenates parts, sorted by latent, then by group, then by descending activation."""
        whole = cls(*(torch.cat(column) for column in zip(*(p._columns() for p in parts), strict=True)))
        order = whole.value.argsort(descending=True, stable=True)
        for column in (whole.group, whole.latent):
            order = order[column[order].argsort(stable=True)]
        return whole[order]


class Collected:
    """Candidates for examples, collected in a pass over the pieces: the strongest activations of every latent, a sample
    of every activation bin of the `shown` latents, and a few random vectors."""

    def __init__(self, n_latents: int, shown: Int[Tensor, " n_shown"], n_top: int, n_sampled: int, seed: int) -> None:
        self.shown, self.seed = shown, seed
        self.index = torch.full((n_latents,), -1, dtype=torch.int64)
        self.index[shown] = torch.arange(len(shown))
        self.top = BestEntries(n_latents, n_top, (*PLACE, "token"))
        self.bins = BestEntries(len(shown) * N_BINS, n_sampled, PLACE)
        self.random = BestEntries(1, N_RANDOM, PLACE)
        self.draw = generator("explore", "collected", seed)

    def add(self, piece: Piece, fired: Fired, bins: Int[Tensor, " entries"]) -> None:
        """Adds a piece; `bins` holds the activation bin of each entry of `fired`."""
        self.add_strongest(piece, fired)
        key = torch.rand(len(fired.value), generator=self.draw)
        group = self.index[fired.latent] * N_BINS + bins
        entry = (group >= 0).nonzero()[:, 0]
        entry = entry[self.bins.admits(group[entry], key[entry])]
        self.bins.offer(group[entry], key[entry], fired.value[entry], **_at(piece, fired.vector[entry]))
        random_key = torch.rand(len(piece.row), generator=self.draw)
        at = torch.arange(len(piece.row))
        self.random.offer(torch.zeros_like(at), random_key, torch.zeros_like(random_key), **_at(piece, at))

    def add_strongest(self, piece: Piece, fired: Fired) -> None:
        """Adds a piece to the candidates for the strongest activations only."""
        entry = self.top.admits(fired.latent, -fired.value).nonzero()[:, 0]
        place = _at(piece, fired.vector[entry])
        entry = entry[apart(fired.latent[entry], place["row"], place["position"], fired.value[entry])]
        vector, value = fired.vector[entry], fired.value[entry]
        token = torch.full_like(vector, -1) if piece.token is None else piece.token[vector]
        self.top.offer(fired.latent[entry], -value, value, token=token, **_at(piece, vector))

    def strongest(self) -> LatentExamples:
        """The strongest activations of the shown latents."""
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
        return [self.sample(n_each, histogram, i, interval == i) for i in range(1, n + 1)]

    def sample(
        self, n: int, histogram: Tensor, group: int, among: Bool[Tensor, "n_shown kept"] | None = None
    ) -> LatentExamples:
        """A sample of `n` activations of each latent, from all of them or only from the entries `among`."""
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
        """`n` random vectors for each latent as examples without activation; the latent may yet be active in some."""
        n_filled = int(self.random.filled.sum())
        at = (torch.arange(n) + 7 * torch.arange(len(self.shown))[:, None]).flatten() % max(1, n_filled)
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
    """Entries such that no two of the same latent and row are closer than :data:`APART`.

    The largest entry of each segment of `APART` positions is kept, unless that of a neighbouring segment is larger and
    closer than `APART`.
    """
    if len(latent) == 0:
        return latent
    segments = int(position.max()) // APART + 2  # the last one is always empty and separates rows
    place = (latent * (int(row.max()) + 1) + row) * segments + position // APART
    order = value.argsort(stable=True)
    order = order[place[order].argsort(stable=True)]
    place = place[order]
    last = torch.ones_like(place, dtype=torch.bool)
    last[:-1] = place[1:] != place[:-1]
    best, place = order[last], place[last]
    at, strength = position[best], value[best]
    near = (place[1:] == place[:-1] + 1) & (at[1:] - at[:-1] < APART)
    keep = torch.ones_like(place, dtype=torch.bool)
    keep[:-1] &= ~(near & (strength[1:] > strength[:-1]))
    keep[1:] &= ~(near & (strength[1:] <= strength[:-1]))
    return best[keep]
