"""Checksums of stored tensors, block by block, so that damage is found when a row is read and not by reading all files.

The sum of a block of `BLOCK` bytes, read as 32-bit words ``w_i`` and filled up with zeros, is ``c + sum_i r_i w_i``
modulo 2^64 with fixed random odd ``r_i`` below 2^32 (multilinear hashing; Lemire and Kaser 2014, 'Strongly universal
string hashing is fast'): a change of one word is always seen, any other but for one in 2^32 or fewer. It is against
damage, not against forgery.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sae.numerics.seeds import HAS_NUMBA, splitmix

BLOCK = 4096
"""Bytes in a block: a page, which a disk reads as a whole anyway. The sums take 1/512 of the tensor's bytes."""
_FACTORS = (splitmix(np.arange(1, BLOCK // 4 + 1, dtype=np.uint64)) >> np.uint64(32)) | np.uint64(1)
_START = np.uint64(0x9E3779B97F4A7C15)  # so that a block of zeros has no sum of zero
_AT_ONCE = 1 << 12


def block_sums(content: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """The sum of every block of `content`, whose last block may be shorter."""
    blocks = np.arange(-(-len(content) // BLOCK))
    if not HAS_NUMBA:
        return _by_numpy(content, blocks)
    from sae.numerics.numba_loops import sums_of_blocks

    sums = np.empty(len(blocks), np.uint64)
    sums_of_blocks(np.ascontiguousarray(content), BLOCK, _FACTORS, _START, sums)
    return sums


def _by_numpy(content: NDArray[np.uint8], blocks: NDArray[np.int64]) -> NDArray[np.uint64]:
    """The sums of some blocks."""
    sums = np.empty(len(blocks), np.uint64)
    for begin in range(0, len(blocks), _AT_ONCE):
        part = blocks[begin : begin + _AT_ONCE]
        padded = np.zeros((len(part), BLOCK), np.uint8)
        for row, block in zip(padded, part.tolist(), strict=True):
            piece = content[block * BLOCK : (block + 1) * BLOCK]
            row[: len(piece)] = piece
        words = padded.view(np.uint32).astype(np.uint64)
        sums[begin : begin + _AT_ONCE] = _START + (words * _FACTORS).sum(1, dtype=np.uint64)
    return sums


class CheckedBlocks:
    """The blocks of one column of a table that is stored in parts. Each block is compared with its sum when a row in it
    is read for the first time."""

    def __init__(self, parts: Sequence[NDArray[np.uint8]], sums: Sequence[NDArray[np.uint64]], row_bytes: int) -> None:
        self._parts, self._sums, self._row_bytes = parts, sums, row_bytes
        self._start = np.array([part.ctypes.data for part in parts], dtype=np.uint64)
        self._size = np.array([len(part) for part in parts], dtype=np.int64)
        self._first = np.cumsum([0, *map(len, sums)])
        self._expected = np.concatenate(sums)
        self._seen = np.zeros(len(self._expected), np.uint8)

    def first_damaged(self, part: NDArray[np.int64], row: NDArray[np.int64]) -> int | None:
        """The place in `part` and `row` of a row that is damaged: ``row[i]`` counts inside ``part[i]``. None if no row
        is."""
        find = self._compiled if HAS_NUMBA else self._plain
        place = find(part, row)
        return None if place < 0 else place

    def _compiled(self, part: NDArray[np.int64], row: NDArray[np.int64]) -> int:
        from sae.numerics.numba_loops import first_damaged

        table: tuple[Any, ...] = (self._start, self._size, self._first, self._expected, self._seen)
        return int(first_damaged(*table, part, row, self._row_bytes, BLOCK, _FACTORS, _START))

    def _plain(self, part: NDArray[np.int64], row: NDArray[np.int64]) -> int:
        for place, (p, r) in enumerate(zip(part.tolist(), row.tolist(), strict=True)):
            first, last = r * self._row_bytes // BLOCK, ((r + 1) * self._row_bytes - 1) // BLOCK
            at = self._first[p] + np.arange(first, last + 1)
            if not self._seen[at].all():
                if (_by_numpy(self._parts[p], at - self._first[p]) != self._expected[at]).any():
                    return place
                self._seen[at] = 1
        return -1
