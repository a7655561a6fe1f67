"""Iterates over a source's held-out activations in pieces of whole rows of tokens, in constant memory.

Activations are stored on disk in shuffled order. Since a shard holds whole rows of tokens, its columns of rows and
positions are enough to restore the order of the text.
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
"""A filter ``keep(row, position)`` of vectors."""


@dataclass(frozen=True, eq=False)
class Piece:
    """A batch of activations with their places of origin."""

    acts: Float[Tensor, "batch d_in"]
    """The activations."""
    row: Int[Tensor, " batch"]
    """The rows of tokens, numbered over both splits, the validation split first."""
    position: Int[Tensor, " batch"]
    """The positions in the rows."""
    half: Half
    """``"choose"`` for the validation split, ``"test"`` for the test split."""
    token: Int[Tensor, " batch"] | None = None
    """The tokens; None if the source has none."""
    codes: Float[Tensor, "batch n_features"] | None = None
    """The coefficients of the true features; None if they are not known."""


class HeldOutVectors(ABC):
    """Interface of iterations over held-out activations: the same activations in the same order every time."""

    context: int
    """The number of positions of a row."""
    n_vectors: int
    """The number of activations."""

    @abstractmethod
    def pieces(self, keep: Keep | None = None) -> Iterator[Piece]:
        """All activations, or those that pass the filter. A row of tokens is never split."""

    @abstractmethod
    def text(self, rows: Int[Tensor, " rows"]) -> TokenRows | None:
        """The given rows of tokens; None if the source has none."""


def held_out_vectors(source: Source, n_vectors: int, at_once: int, seed: int = 0) -> HeldOutVectors:
    """At most `n_vectors` of a source's held-out activations, half of them from the validation split, in pieces of
    about `at_once`."""
    if isinstance(source, Activations):
        return TextVectors(source, n_vectors, at_once, seed)
    return IndependentVectors(source, n_vectors, at_once)


class IndependentVectors(HeldOutVectors):
    """Activations without context, each a row of one position."""

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
                passes = np.ones(len(row), dtype=bool) if keep is None else keep(row, np.zeros_like(row))
                if not passes.any():
                    continue
                batch, at = self.source.batch(step, self.at_once, half), torch.from_numpy(np.flatnonzero(passes))
                codes = None if batch.codes is None else batch.codes[: end - begin][at]
                rows = torch.from_numpy(row)[at]
                yield Piece(batch.acts[: end - begin][at], rows, torch.zeros_like(rows), half, codes=codes)

    def text(self, rows: Int[Tensor, " rows"]) -> None:
        return None


class TextVectors(HeldOutVectors):
    """Activations at the positions of rows of tokens."""

    def __init__(self, source: Activations, n_vectors: int, at_once: int, seed: int) -> None:
        self.source, self.at_once, self.seed = source, at_once, seed
        self.limit = max(1, n_vectors // 2)
        self.context = int(self.corpora["choose"].tokens(np.arange(1)).shape[1])
        sizes = [source.shards[h].n_rows for h in HALVES]
        self.n_vectors = sum(min(self.limit, n) for n in sizes)  # rows are not split, so a few more may be read

    @cached_property
    def corpora(self) -> dict[Half, Corpus]:
        """The tokens of each split."""
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
        """A shard's activations by row, with the rows in random order, so that any first part is a sample."""
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
            passes = keep(row, position)
            index, row, position = index[passes], row[passes], position[passes]
        if len(index) == 0:
            return None
        token = shards.rows(index, "token").long()
        acts, known = shards.rows(index, device=self.source.device), self.source.known
        at = torch.from_numpy(position)
        codes = None if known is None else known.codes(token.to(acts.device), at.to(acts.device))
        return Piece(acts, torch.from_numpy(row), at, half, token, codes)

    def text(self, rows: Int[Tensor, " rows"]) -> TokenRows:
        """The given rows, in the given order."""
        n = len(self.corpora["choose"])
        tokens = torch.full((len(rows), self.context), PADDING, dtype=torch.int32)
        for half in HALVES:
            here = rows < n if half == "choose" else rows >= n
            if bool(here.any()):
                in_corpus = rows[here] - (0 if half == "choose" else n)
                tokens[here] = self.corpora[half].tokens(in_corpus.numpy()).int()
        return self.source.select(tokens)


def _whole_rows(row: Index, n: int, at_once: int) -> list[int]:
    """The ends of pieces of about `at_once` activations, each at the end of a row, up to `n` activations."""
    borders = np.append(np.flatnonzero(np.diff(row)) + 1, len(row))
    ends = [0]
    while ends[-1] < n:
        ends.append(int(borders[np.searchsorted(borders, min(ends[-1] + at_once, n))]))
    return ends[1:]
