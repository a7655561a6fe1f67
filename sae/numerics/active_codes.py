"""Codes of many samples in bounded memory: without their zeros, by latent, and in blocks of samples.

:class:`SplitCodes` keeps the codes of a split of the samples if they fit into :data:`KEPT_CODE_BYTES`, dense or without
their zeros, and otherwise computes them again for every reading. Whoever reads them sees no difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

KEPT_CODE_BYTES = 2**27
"""The bytes of the codes of a split that are kept; without their zeros, a code takes eight."""
GROUP_ENTRIES = 2**24
"""The most non-zero codes that are in memory at once, unless a single latent has more."""
PART_ENTRIES = 2**20
"""The most non-zero codes that a calculation takes at once, unless a single latent has more."""


@dataclass(frozen=True, eq=False)
class ActiveCodes:
    """The non-zero codes of some latents in all samples, sorted by latent, then by sample."""

    row: Int[Tensor, " entries"]
    """The sample of each code."""
    value: Float[Tensor, " entries"]
    """The codes."""
    start: Int[Tensor, " n_latents_plus_1"]
    """The first entry of each latent, and at last the number of entries."""
    n_rows: int
    """The number of samples."""

    @property
    def n_latents(self) -> int:
        return len(self.start) - 1

    @property
    def count(self) -> Int[Tensor, " n_latents"]:
        """The number of non-zero codes of each latent."""
        return self.start.diff()

    @property
    def latent(self) -> Int[Tensor, " entries"]:
        """The latent of each code."""
        return torch.arange(self.n_latents, device=self.start.device).repeat_interleave(self.count)

    @classmethod
    def sorted(cls, row: Tensor, latent: Tensor, value: Tensor, n_rows: int, n_latents: int) -> ActiveCodes:
        """From codes that are sorted by sample."""
        order = latent.argsort(stable=True)
        start = torch.zeros(n_latents + 1, dtype=torch.int64, device=latent.device)
        start[1:] = latent.bincount(minlength=n_latents).cumsum(0)
        return cls(row[order].int(), value[order], start, n_rows)

    def at(self, latents: Int[Tensor, " n"]) -> ActiveCodes:
        """The codes of these latents, in this order."""
        size = self.count[latents]
        start = torch.zeros(len(latents) + 1, dtype=torch.int64, device=size.device)
        start[1:] = size.cumsum(0)
        within = torch.arange(int(start[-1]), device=size.device) - start[:-1].repeat_interleave(size)
        entry = self.start[latents].repeat_interleave(size) + within
        return ActiveCodes(self.row[entry], self.value[entry], start, self.n_rows)

    def where(self, kept: Tensor) -> ActiveCodes:
        """Only the entries in the mask `kept`."""
        before = torch.zeros(len(kept) + 1, dtype=torch.int64, device=kept.device)
        before[1:] = kept.cumsum(0)
        return ActiveCodes(self.row[kept], self.value[kept], before[self.start], self.n_rows)

    def dense(self, latents: Int[Tensor, " n"] | None = None) -> Float[Tensor, "rows n"]:
        """The codes as a matrix with its zeros; of these latents, which may repeat, if they are given."""
        chosen = self if latents is None else self.at(latents)
        out = self.value.new_zeros(self.n_rows, chosen.n_latents)
        out[chosen.row.long(), chosen.latent] = chosen.value
        return out

    def parts(self, most_latents: int | None = None) -> Iterator[tuple[slice, ActiveCodes]]:
        """The codes of ranges of latents, at most `PART_ENTRIES` codes and `most_latents` latents each."""
        for latents in ranges(self.count, PART_ENTRIES, most_latents or self.n_latents):
            entries = slice(int(self.start[latents.start]), int(self.start[latents.stop]))
            start = self.start[latents.start : latents.stop + 1] - entries.start
            yield latents, ActiveCodes(self.row[entries], self.value[entries], start, self.n_rows)

    def matrix(self) -> Any:
        """The codes as a sparse matrix of scipy ``[n_latents, rows]`` in float64."""
        from scipy.sparse import csr_matrix

        parts = (self.value.double(), self.row, self.start)
        return csr_matrix(tuple(part.cpu().numpy() for part in parts), shape=(self.n_latents, self.n_rows))

    def product(self, columns: Shaped[Tensor, "rows k"], values: Tensor | None = None) -> Float[Tensor, "n_latents k"]:
        """``z^T columns`` in float64, with `values` in place of the codes if they are given."""
        values = self.value if values is None else values
        places = torch.stack([self.latent, self.row.long()])
        shape = (self.n_latents, self.n_rows)
        matrix = torch.sparse_coo_tensor(places, values.double(), shape, is_coalesced=True, check_invariants=False)
        return torch.sparse.mm(matrix, columns.double())


def ranges(count: Int[Tensor, " n_latents"], most_entries: int, most_latents: int) -> Iterator[slice]:
    """Consecutive ranges of latents with at most so many entries and latents each, but one latent at least."""
    ends, begin = count.cumsum(0).cpu(), 0
    while begin < len(ends):
        before = int(ends[begin - 1]) if begin else 0
        end = int(torch.searchsorted(ends, before + most_entries, right=True))
        end = min(max(end, begin + 1), begin + most_latents, len(ends))
        yield slice(begin, end)
        begin = end


@dataclass(frozen=True, eq=False)
class SplitCodes:
    """The codes of the samples of one split."""

    encode: Callable[[slice], Float[Tensor, "block n_latents"]]
    """Computes the codes of a range of samples."""
    n_rows: int
    """The number of samples."""
    n_latents: int
    """The number of latents."""
    rows_at_once: int
    """The number of samples that are encoded at once."""
    matrix: Float[Tensor, "rows n_latents"] | None = None
    """All codes, if they are there already."""

    @classmethod
    def of_matrix(cls, z: Float[Tensor, "rows n_latents"], rows_at_once: int) -> SplitCodes:
        """From codes that are there already."""
        return cls(lambda rows: z[rows], len(z), z.shape[1], rows_at_once, z)

    def blocks(self) -> Iterator[tuple[slice, Float[Tensor, "block n_latents"]]]:
        """The codes in blocks of samples, each with its samples."""
        dense, kept = self._dense, self._sparse
        for begin in range(0, self.n_rows, self.rows_at_once):
            rows = slice(begin, min(begin + self.rows_at_once, self.n_rows))
            if dense is not None:
                yield rows, dense[rows]
            elif kept is not None:
                yield rows, kept[begin // self.rows_at_once].dense()
            else:
                yield rows, self.encode(rows)

    def groups(self) -> Iterator[tuple[slice, ActiveCodes]]:
        """The non-zero codes of all samples for ranges of latents of at most `GROUP_ENTRIES` codes. One pass over the
        samples for each range, which is a single one unless that many are active."""
        for latents in ranges(self.count, GROUP_ENTRIES, self.n_latents):
            yield latents, self.within(latents)

    def parts(self, most_latents: int | None = None) -> Iterator[tuple[slice, ActiveCodes]]:
        """The groups in parts of at most `PART_ENTRIES` codes and `most_latents` latents."""
        for group, codes in self.groups():
            for latents, part in codes.parts(most_latents):
                yield slice(group.start + latents.start, group.start + latents.stop), part

    def within(self, latents: slice) -> ActiveCodes:
        """The non-zero codes of a range of latents. All of them are in memory."""
        return self._of(latents, latents.stop - latents.start)

    def at(self, latents: Int[Tensor, " n"]) -> ActiveCodes:
        """The non-zero codes of these latents, which may repeat, in this order. All of them are in memory."""
        chosen, place = latents.unique(return_inverse=True)
        return self._of(chosen, len(chosen)).at(place)

    def all(self) -> Float[Tensor, "rows n_latents"]:
        """All codes with their zeros, whatever memory they take."""
        return torch.cat([z for _, z in self.blocks()]) if self._dense is None else self._dense

    @cached_property
    def count(self) -> Int[Tensor, " n_latents"]:
        """The number of samples in which each latent is not zero."""
        if self._sparse is not None:
            counts = [rows.latent.bincount(minlength=self.n_latents) for rows in self._sparse]
        else:
            counts = [z.count_nonzero(0) for _, z in self.blocks()]
        return torch.stack(counts).sum(0) if counts else torch.zeros(self.n_latents, dtype=torch.int64)

    @cached_property
    def _dense(self) -> Tensor | None:
        """All codes, if they are there or fit."""
        if self.matrix is not None or self.n_rows == 0:
            return self.encode(slice(0, 0)) if self.matrix is None else self.matrix
        first = self.encode(slice(0, min(self.rows_at_once, self.n_rows)))
        if self.n_rows * self.n_latents * first.element_size() > KEPT_CODE_BYTES:
            return None
        out = first.new_empty(self.n_rows, self.n_latents)
        for begin in range(0, self.n_rows, self.rows_at_once):
            rows = slice(begin, min(begin + self.rows_at_once, self.n_rows))
            out[rows] = self.encode(rows) if begin else first
        return out

    @cached_property
    def _sparse(self) -> list[_Rows] | None:
        """The non-zero codes of all blocks, if they fit and the codes are not kept otherwise."""
        if self._dense is not None:
            return None
        kept, left = list[_Rows](), KEPT_CODE_BYTES
        for begin in range(0, self.n_rows, self.rows_at_once):
            kept.append(_Rows.of(self.encode(slice(begin, min(begin + self.rows_at_once, self.n_rows)))))
            left -= kept[-1].n_bytes
            if left < 0:
                return None
        return kept

    def _of(self, latents: slice | Tensor, n: int) -> ActiveCodes:
        """The non-zero codes of ascending latents, from one pass over the samples."""
        if self._dense is not None:
            latent, row = (self._dense[:, latents] != 0).T.nonzero(as_tuple=True)
            start = torch.zeros(n + 1, dtype=torch.int64, device=latent.device)
            start[1:] = latent.bincount(minlength=n).cumsum(0)
            return ActiveCodes(row.int(), self._dense[:, latents][row, latent], start, self.n_rows)
        parts: list[tuple[Tensor, ...]] = []
        for i, begin in enumerate(range(0, self.n_rows, self.rows_at_once)):
            if self._sparse is not None:
                row, latent, value = self._sparse[i].at(latents)
            else:
                z = self.encode(slice(begin, min(begin + self.rows_at_once, self.n_rows)))[:, latents]
                row, latent = z.nonzero(as_tuple=True)
                value = z[row, latent]
            parts.append(((row + begin).int(), latent.int(), value))
        row, latent, value = (torch.cat(part) for part in zip(*parts, strict=True))
        return ActiveCodes.sorted(row, latent, value, self.n_rows, n)


@dataclass(frozen=True, eq=False)
class _Rows:
    """The non-zero codes of a block of samples, sorted by sample."""

    end: Int[Tensor, " block"]
    """The end of each sample's entries."""
    latent: Int[Tensor, " entries"]
    value: Float[Tensor, " entries"]
    n_latents: int

    @classmethod
    def of(cls, z: Float[Tensor, "block n_latents"]) -> _Rows:
        row, latent = z.nonzero(as_tuple=True)
        end = row.bincount(minlength=len(z)).cumsum(0)
        return cls(end, latent.int(), z[row, latent], z.shape[1])

    @property
    def n_bytes(self) -> int:
        return self.latent.nbytes + self.value.nbytes + self.end.nbytes

    @property
    def row(self) -> Tensor:
        return torch.arange(len(self.end), device=self.end.device).repeat_interleave(
            self.end.diff(prepend=self.end.new_zeros(1))
        )

    def dense(self) -> Float[Tensor, "block n_latents"]:
        out = self.value.new_zeros(len(self.end), self.n_latents)
        out[self.row, self.latent.long()] = self.value
        return out

    def at(self, latents: slice | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Sample, number among the `latents` and value of the codes of these latents, which ascend."""
        if isinstance(latents, slice):
            here = (self.latent >= latents.start) & (self.latent < latents.stop)
            return self.row[here], self.latent[here] - latents.start, self.value[here]
        if len(latents) == 0:
            return self.row[:0], self.row[:0], self.value[:0]
        place = torch.searchsorted(latents, self.latent.long()).clamp_max(len(latents) - 1)
        here = latents[place] == self.latent
        return self.row[here], place[here], self.value[here]
