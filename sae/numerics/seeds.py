"""Random numbers as pure functions: seeds derived from names and numbers, permutations computed on demand."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec

import numpy as np
import torch
from numpy.typing import NDArray

HAS_NUMBA = find_spec("numba") is not None
"""Whether loops are compiled. Without numba, NumPy gives the same results more slowly."""


def derive(*path: str | int) -> int:
    """A 63-bit seed for a path of names and numbers, e.g. ``derive("init", seed, step)``.

    Different paths give independent streams; unlike ``seed + step``, no two uses can collide by accident.
    """
    digest = hashlib.blake2b("\x1f".join(map(str, path)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*path: str | int) -> torch.Generator:
    """A CPU generator seeded with :func:`derive`. Draws are made on the CPU so that every device sees the same."""
    return torch.Generator().manual_seed(derive(*path))


@dataclass(frozen=True)
class Permutation:
    """A pseudo-random permutation of ``range(n)`` that is computed, not stored.

    A balanced Feistel network of `ROUNDS` rounds on the smallest even number of bits that holds `n`,
    with cycle walking for the values beyond `n` (Black and Rogaway 2002, 'Ciphers with arbitrary finite
    domains'). It takes no memory however large `n` is, and any index can be computed by itself.
    """

    n: int
    """The number of elements."""
    seed: int
    """The seed of the round keys."""

    ROUNDS = 6

    @cached_property
    def _half_bits(self) -> int:
        return max(1, ((self.n - 1).bit_length() + 1) // 2)

    @cached_property
    def _keys(self) -> list[np.uint64]:
        return [np.uint64(derive("feistel", self.seed, r)) for r in range(self.ROUNDS)]

    def _encrypt(self, index: NDArray[np.uint64]) -> NDArray[np.uint64]:
        half = np.uint64(self._half_bits)
        mask = np.uint64((1 << self._half_bits) - 1)
        left, right = index >> half, index & mask
        for key in self._keys:
            left, right = right, left ^ (splitmix(right + key) & mask)
        return (left << half) | right

    def __call__(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """The images of `index` (integers in ``[0, n)``), of the same shape."""
        if not HAS_NUMBA:
            return self._by_numpy(index)
        from sae.numerics.numba_loops import permute

        flat = np.ascontiguousarray(index, dtype=np.int64).reshape(-1)
        out = np.empty_like(flat)
        permute(flat, np.uint64(self.n), np.uint64(self._half_bits), np.array(self._keys), out)
        return out.reshape(index.shape)

    def _by_numpy(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        out = self._encrypt(index.astype(np.uint64))
        while (outside := out >= self.n).any():
            out[outside] = self._encrypt(out[outside])
        return out.astype(np.int64)


def epoch_rows(step: int, size: int, n_rows: int, seed: int) -> NDArray[np.int64]:
    """The rows of one training step over a finite source: every epoch is a permutation of all rows.

    Positions ``step * size ...`` continue over the epochs, so a batch may span two of them.
    """
    begin, end = step * size, (step + 1) * size
    pieces: list[NDArray[np.int64]] = []
    for epoch in range(begin // n_rows, -(-end // n_rows)):
        position = np.arange(max(begin - epoch * n_rows, 0), min(end - epoch * n_rows, n_rows))
        pieces.append(Permutation(n_rows, derive("epoch", seed, epoch))(position))
    return np.concatenate(pieces)


def splitmix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64: every input bit changes about half of the output bits."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
