"""Held-out vectors a piece at a time, whole rows of tokens together: what is held in memory does not grow with them.

Vectors lie on disk in an order that keeps neighbours in a text apart. A shard holds whole rows of tokens though, so
that one shard's columns of rows and positions are enough to put its vectors back into the order of the text.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from sae.activations.corpus import PADDING, Corpus
from sae.activations.disk_source import Activations
from sae.activations.shards import Shards
from sae.model.token_rows import TokenRows
from sae.numerics.seeds import Permutation, derive
from sae.source import Source

Half = Literal["choose", "test"]
HALVES: tuple[Half, Half] = ("choose", "test")
Index = NDArray[np.int64]
Keep = Callable[[Index, Index], NDArray[np.bool_]]
"""Which vectors are wanted, by their rows and positions."""


@dataclass(frozen=True, eq=False)
class Piece:
    """Vectors with where they come from: rows are numbered over both halves, those to choose on first."""

    acts: Float[Tensor, "batch d_in"]
    row: Int[Tensor, " batch"]
    position: Int[Tensor, " batch"]
    half: Half
    token: Int[Tensor, " batch"] | None = None
    codes: Float[Tensor, "batch n_features"] | None = None


class HeldOutVectors(ABC):
    """How a source's held-out vectors are gone through; the same vectors in the same order every time."""

    context: int
    """How many positions a row has."""
    n_vectors: int

    @abstractmethod
    def pieces(self, keep: Keep | None = None) -> Iterator[Piece]:
        """All vectors, or those to keep. A row of tokens is never parted."""

    @abstractmethod
    def text(self, rows: Int[Tensor, " rows"]) -> TokenRows | None:
        """The rows of tokens that the model read, with what counts in them; None where there are no tokens."""


def held_out_vectors(source: Source, n_vectors: int, at_once: int, seed: int = 0) -> HeldOutVectors:
    """At most `n_vectors` of a source's held-out vectors, half of them to choose on, some `at_once` at a time."""
    if isinstance(source, Activations):
        return TextReading(source, n_vectors, at_once, seed)
    return RowReading(source, n_vectors, at_once)


class RowReading(HeldOutVectors):
    """Vectors that stand alone, each a row of one position."""

    context = 1

    def __init__(self, source: Source, n_vectors: int, at_once: int) -> None:
        self.source, self.at_once = source, at_once
        half = max(1, n_vectors // 2)
        self.sizes: dict[Half, int] = {h: min(half, source.n_rows[h] or half) for h in HALVES}
        self.n_vectors = sum(self.sizes.values())

    def pieces(self, keep: Keep | None = None) -> Iterator[Piece]:
        for half in HALVES:
            before = 0 if half == "choose" else self.sizes["choose"]
            for step in range(-(-self.sizes[half] // self.at_once)):
                begin, end = (min(i * self.at_once, self.sizes[half]) for i in (step, step + 1))
                row = before + np.arange(begin, end)
                wanted = np.ones(len(row), dtype=bool) if keep is None else keep(row, np.zeros_like(row))
                if not wanted.any():
                    continue
                batch, at = self.source.batch(step, self.at_once, half), torch.from_numpy(np.flatnonzero(wanted))
                codes = None if batch.codes is None else batch.codes[: end - begin][at]
                rows = torch.from_numpy(row)[at]
                yield Piece(batch.acts[: end - begin][at], rows, torch.zeros_like(rows), half, codes=codes)

    def text(self, rows: Int[Tensor, " rows"]) -> None:
        return None


class TextReading(HeldOutVectors):
    """Vectors at the positions of rows of tokens."""

    def __init__(self, source: Activations, n_vectors: int, at_once: int, seed: int) -> None:
        self.source, self.at_once, self.seed = source, at_once, seed
        self.limit = max(1, n_vectors // 2)
        self.context = int(self.corpora["choose"].tokens(np.arange(1)).shape[1])
        sizes = [source.shards[h].n_rows for h in HALVES]
        self.n_vectors = sum(min(self.limit, n) for n in sizes)  # rows are not parted: some more may be read

    @cached_property
    def corpora(self) -> dict[Half, Corpus]:
        facts, config = self.source.facts["splits"], self.source.config
        return {h: Corpus.open(self.source.directory, h, facts[h]["rows"], config.seed) for h in HALVES}

    def pieces(self, keep: Keep | None = None) -> Iterator[Piece]:
        for half in HALVES:
            shards, left = self.source.shards[half], self.limit
            for k in range(len(shards.shards)):
                if left <= 0:
                    break
                index, row, position = self._in_order(shards, half, k)
                ends = _whole_rows(row, min(left, len(row)), self.at_once)
                left -= ends[-1]
                for begin, end in zip([0, *ends[:-1]], ends, strict=True):
                    part = slice(begin, end)
                    piece = self._piece(shards, half, index[part], row[part], position[part], keep)
                    if piece is not None:
                        yield piece

    def _in_order(self, shards: Shards, half: Half, k: int) -> tuple[Index, Index, Index]:
        """A shard's vectors, row by row in an order of the rows that is drawn: any first part of them is a sample."""
        n = shards.shards[k].n_rows
        index = int(shards.ends[k]) - n + np.arange(n)
        row, position = (shards.rows(index, name).numpy().astype(np.int64) for name in ("row", "position"))
        known, which = np.unique(row, return_inverse=True)
        place = Permutation(len(known), derive("explore", "rows", self.seed, half, k))(which)
        order = np.lexsort((position, place))
        before = 0 if half == "choose" else len(self.corpora["choose"])
        return index[order], row[order] + before, position[order]

    def _piece(
        self, shards: Shards, half: Half, index: Index, row: Index, position: Index, keep: Keep | None
    ) -> Piece | None:
        if keep is not None:
            wanted = keep(row, position)
            index, row, position = index[wanted], row[wanted], position[wanted]
        if len(index) == 0:
            return None
        token = shards.rows(index, "token").long()
        acts, known = shards.rows(index, device=self.source.device), self.source.known
        at = torch.from_numpy(position)
        codes = None if known is None else known.codes(token.to(acts.device), at.to(acts.device))
        return Piece(acts, torch.from_numpy(row), at, half, token, codes)

    def text(self, rows: Int[Tensor, " rows"]) -> TokenRows:
        """The rows, in the order asked for."""
        n = len(self.corpora["choose"])
        tokens = torch.full((len(rows), self.context), PADDING, dtype=torch.int32)
        for half in HALVES:
            mine = rows < n if half == "choose" else rows >= n
            if bool(mine.any()):
                own = rows[mine] - (0 if half == "choose" else n)
                tokens[mine] = self.corpora[half].tokens(own.numpy()).int()
        return self.source.select(tokens)


def _whole_rows(row: Index, n: int, at_once: int) -> list[int]:
    """Where pieces of some `at_once` vectors end, each at the end of a row, until there are `n` vectors."""
    borders = np.append(np.flatnonzero(np.diff(row)) + 1, len(row))
    ends = [0]
    while ends[-1] < n:
        ends.append(int(borders[np.searchsorted(borders, min(ends[-1] + at_once, n))]))
    return ends[1:]
