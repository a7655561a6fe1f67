"""Packs documents into rows of tokens for a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Int32, Int64
from numpy.typing import NDArray

PADDING = -1
"""The id at padding in stored rows; unlike a tokenizer's padding id, no token has it."""

Packing = Literal["packed", "document"]
BosAt = Literal["row", "document", "none"]


def _nothing() -> NDArray[np.int32]:
    return np.zeros((2, 0), dtype=np.int32)


@dataclass
class Packer:
    """Packs documents into rows of tokens, and keeps the document of each token."""

    context: int
    """The number of tokens in a row."""
    packing: Packing
    """``packed``: documents are concatenated and cut into full rows, so attention crosses document borders.
    ``document``: every document starts a new row, and its last row is padded."""
    bos_at: BosAt
    """Whether BOS begins every row, every document, or nothing."""
    bos: int | None
    """The id of BOS; None if the tokenizer has none."""
    eos: int | None
    """The id to end documents with; None for no EOS."""
    left: NDArray[np.int32] = field(default_factory=_nothing)
    """The tokens ``[0]`` that do not fill a row yet, and their documents ``[1]``."""

    def add(
        self, numbers: Int64[np.ndarray, " documents"], ids: Int32[np.ndarray, " ids"],
        lengths: Int64[np.ndarray, " documents"],
    ) -> Int32[np.ndarray, "rows 2 context"]:  # fmt: skip
        """Adds documents and returns the finished rows: tokens, and the document of each; :data:`PADDING` at padding.

        `numbers` are those of the documents, `ids` their token ids, one after the other, and `lengths` how many each
        has.
        """
        tokens, lengths = self._framed(ids, lengths)
        both = np.stack([tokens, np.repeat(numbers, lengths).astype(np.int32)])
        room = self.context - self._lead
        if self.packing == "packed":
            both = np.concatenate([self.left, both], axis=1)
            n_rows = both.shape[1] // room
            self.left = both[:, n_rows * room :].copy()
            filled = both[:, : n_rows * room]
        else:
            rows_each = -(-lengths // room)
            n_rows = int(rows_each.sum())
            # A document begins where its first row does, and its tokens follow each other, over all of its rows.
            shift = (rows_each.cumsum() - rows_each) * room - (lengths.cumsum() - lengths)
            filled = np.full((2, n_rows * room), PADDING, dtype=np.int32)
            filled[:, np.arange(both.shape[1]) + np.repeat(shift, lengths)] = both
        rows = np.empty((n_rows, 2, self.context), dtype=np.int32)
        rows[:, :, self._lead :] = filled.reshape(2, n_rows, room).transpose(1, 0, 2)
        if self.bos is not None and self._lead:
            rows[:, 0, 0] = self.bos
            rows[:, 1, 0] = rows[:, 1, 1]
        return rows

    @property
    def _lead(self) -> int:
        """The number of tokens that every row begins with."""
        return int(self.bos_at == "row" and self.bos is not None)

    def _framed(
        self, ids: NDArray[np.int32], lengths: NDArray[np.int64]
    ) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """The documents with the special tokens before and after each."""
        before = self.bos if self.bos_at == "document" else None
        if before is None and self.eos is None:
            return ids, lengths
        lengths = lengths + (before is not None) + (self.eos is not None)
        ends, inside = lengths.cumsum(), np.ones(int(lengths.sum()), dtype=bool)
        framed = np.empty(len(inside), dtype=np.int32)
        for token, places in ((before, ends - lengths), (self.eos, ends - 1)):
            if token is not None:
                framed[places], inside[places] = token, False
        framed[inside] = ids
        return framed, lengths
