"""Compiled loops of the sources: the permutation of an epoch, gathering of rows, uniform random numbers.

They release the interpreter's lock, so that several threads can make batches at the same time.
"""

# pyright: reportUntypedFunctionDecorator=false, reportPrivateUsage=false

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import prange, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from sae.numerics.numba_jit import compiled, set_threads, threaded

_Words = NDArray[np.uint64]


carray: Any = numba.carray  # pyright: ignore[reportPrivateImportUsage]


def _to_pointer(context: Any, address: Any) -> Any:
    """Casts an address to a pointer, which numba has no function for."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.uint64), generate


_pointer: Any = intrinsic(_to_pointer)


@compiled
def _mixed(x: Any) -> Any:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@compiled
def permute(index: NDArray[np.int64], n: Any, half_bits: Any, keys: _Words, out: NDArray[np.int64]) -> None:
    """The Feistel network of :class:`sae.numerics.seeds.Permutation`; `n` and `half_bits` are unsigned 64-bit words.

    Each round runs over all numbers, so that the compiler vectorises it. Numbers outside ``range(n)`` repeat all
    rounds.
    """
    mask = (np.uint64(1) << half_bits) - np.uint64(1)
    left, right = np.empty(len(index), np.uint64), np.empty(len(index), np.uint64)
    place = np.arange(len(index))
    for i in range(len(index)):
        x = np.uint64(index[i])
        left[i], right[i] = x >> half_bits, x & mask
    outside = len(index)
    while outside:
        for key in keys:
            for i in range(outside):
                before = right[i]
                right[i] = left[i] ^ (_mixed(before + key) & mask)
                left[i] = before
        inside, outside = outside, 0
        for i in range(inside):
            x = (left[i] << half_bits) | right[i]
            if x < n:
                out[place[i]] = x
            else:
                left[outside], right[outside], place[outside] = left[i], right[i], place[i]
                outside += 1


@compiled
def gather(start: _Words, ends: NDArray[np.int64], index: NDArray[np.int64], out: NDArray[Any]) -> None:
    """Copies row ``index[i]`` of a table to row i of `out`.

    The table is stored in parts: part k begins at the address ``start[k]``, and parts 0 to k hold ``ends[k]`` rows.
    Nothing is checked.
    """
    width = out.shape[1]
    for i in range(len(index)):
        part = np.searchsorted(ends, index[i], side="right")
        first = ends[part - 1] if part else 0
        row = carray(_pointer(start[part]), (ends[part] - first, width), out.dtype)[index[i] - first]
        # Copied word by word: the compiler vectorises this better than a call of memcpy.
        for c in range(width):
            out[i, c] = row[c]


@threaded
def _gather_in_pieces(start: _Words, ends: NDArray[np.int64], index: NDArray[np.int64], out: Any, pieces: int) -> None:
    n = len(index)
    for p in prange(pieces):
        piece = slice(n * p // pieces, n * (p + 1) // pieces)
        gather(start, ends, index[piece], out[piece])


def gather_in_pieces(
    start: _Words, ends: NDArray[np.int64], index: NDArray[np.int64], out: NDArray[Any], pieces: int
) -> None:
    """:func:`gather` in `pieces` threads, or in as many as there are cores."""
    before = set_threads(pieces)
    _gather_in_pieces(start, ends, index, out, pieces)
    set_threads(before)


@compiled
def _sum_of_block(words: Any, tail: Any, factors: _Words, start: Any) -> Any:
    total = start
    for i in range(len(words)):
        # Words of 32 bits are multiplied to 64, which the compiler vectorises.
        total += np.uint64(words[i]) * np.uint64(np.uint32(factors[i]))
    last = np.uint64(0)
    for i in range(len(tail)):
        last |= np.uint64(tail[i]) << np.uint64(8 * i)
    return total + last * factors[len(words)] if len(tail) else total


@compiled
def _sum_at(address: Any, n: int, factors: _Words, start: Any) -> Any:
    """The sum of the block of n bytes at an address."""
    words = carray(_pointer(address), (n // 4,), np.uint32)
    tail = carray(_pointer(address + np.uint64(n // 4 * 4)), (n % 4,), np.uint8)
    return _sum_of_block(words, tail, factors, start)


@compiled
def sums_of_blocks(content: NDArray[np.uint8], block: int, factors: _Words, start: Any, out: _Words) -> None:
    """The sums of :mod:`sae.activations.block_sums`, of all blocks."""
    address = np.uint64(content.ctypes.data)
    for b in range(len(out)):
        n = min(block, len(content) - b * block)
        out[b] = _sum_at(address + np.uint64(b * block), n, factors, start)


@compiled
def first_damaged(
    address: _Words,
    size: NDArray[np.int64],
    first: NDArray[np.int64],
    expected: _Words,
    seen: NDArray[np.uint8],
    part: NDArray[np.int64],
    row: NDArray[np.int64],
    row_bytes: int,
    block: int,
    factors: _Words,
    start: Any,
) -> int:
    """The first i whose row ``row[i]`` of ``part[i]`` lies in a block that differs from its sum; -1 for none.

    Part k has ``size[k]`` bytes at ``address[k]``; its blocks are numbers ``first[k]`` and on of `expected` and `seen`.
    """
    for i in range(len(row)):
        k = part[i]
        for b in range(row[i] * row_bytes // block, ((row[i] + 1) * row_bytes - 1) // block + 1):
            if not seen[first[k] + b]:
                n = min(block, size[k] - b * block)
                if _sum_at(address[k] + np.uint64(b * block), n, factors, start) != expected[first[k] + b]:
                    return i
                seen[first[k] + b] = 1
    return -1


@compiled
def _renew(words: NDArray[np.uint32]) -> None:
    """Replaces the 624 words of a Mersenne Twister by the next 624."""
    for i in range(227):
        y = (words[i] & np.uint32(0x80000000)) | (words[i + 1] & np.uint32(0x7FFFFFFF))
        words[i] = words[i + 397] ^ (y >> np.uint32(1)) ^ (np.uint32(0x9908B0DF) * (y & np.uint32(1)))
    for i in range(227, 623):
        y = (words[i] & np.uint32(0x80000000)) | (words[i + 1] & np.uint32(0x7FFFFFFF))
        words[i] = words[i - 227] ^ (y >> np.uint32(1)) ^ (np.uint32(0x9908B0DF) * (y & np.uint32(1)))
    y = (words[623] & np.uint32(0x80000000)) | (words[0] & np.uint32(0x7FFFFFFF))
    words[623] = words[396] ^ (y >> np.uint32(1)) ^ (np.uint32(0x9908B0DF) * (y & np.uint32(1)))


@compiled
def _unit(word: Any) -> Any:
    """Torch's float32 in [0, 1) from a word: the word is tempered, and its last 24 bits are divided by 2^24."""
    word ^= word >> np.uint32(11)
    word ^= (word << np.uint32(7)) & np.uint32(0x9D2C5680)
    word ^= (word << np.uint32(15)) & np.uint32(0xEFC60000)
    word ^= word >> np.uint32(18)
    return np.float32(np.int32(word & np.uint32(0xFFFFFF))) * np.float32(2**-24)


@compiled
def fill_uniform(words: NDArray[np.uint32], at: int, out: NDArray[np.float32]) -> int:
    """Fills `out` with uniform numbers, starting at word `at`; returns the number of used words."""
    done = 0
    while done < len(out):
        if at == len(words):
            _renew(words)
            at = 0
        n = min(len(words) - at, len(out) - done)
        part, drawn = out[done : done + n], words[at : at + n]
        for i in range(n):
            part[i] = _unit(drawn[i])
        done += n
        at += n
    return at


@compiled
def keep(words: NDArray[np.uint32], at: int, p: NDArray[np.float32], values: NDArray[np.float32]) -> int:
    """Sets each value to 0 unless its uniform number is below its p, which has one row for each row or one for all."""
    for r in range(len(values)):
        row, probability, done = values[r], p[r % len(p)], 0
        while done < len(row):
            if at == len(words):
                _renew(words)
                at = 0
            n = min(len(words) - at, len(row) - done)
            part, part_p, drawn = row[done : done + n], probability[done : done + n], words[at : at + n]
            for i in range(n):
                part[i] = part[i] if _unit(drawn[i]) < part_p[i] else np.float32(0)
            done += n
            at += n
    return at
