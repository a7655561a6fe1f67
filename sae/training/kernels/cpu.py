"""The kernels compiled by numba, for two or more cores that share their caches.

One pass over a block of dense pre-activations finds the active ones, as bits in words of 64; one pass over the rows
decodes and computes residuals and the gradients of the codes; a counting sort groups the pairs by latent; and one pass
over the latents gathers both gradients of a latent in two vectors, applies Adam to its two rows and normalises.
Gathers take four pairs at a time, so that a sum is loaded and stored once for four products. Every result is a fixed
sequence of operations, whatever the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae.architecture import Largest, Selection
from sae.numerics.numba_jit import set_threads
from sae.training.kernels import (
    Adam,
    ByLatent,
    Codes,
    Kernels,
    Latents,
    Rounded,
    SparseBackward,
    TrainedLatents,
    loops,
)

_Array = NDArray[Any]
_BLOCK = 1 << 20
"""The number of pre-activations that are computed, and searched while they are in the cache, at a time."""
_LEAST_ROWS = 512
"""The smallest number of rows in a block: with fewer, a wide encoder is loaded too often (128 rows took 1.5 times as
long as 512)."""


class Numba(Kernels):
    """The kernels for float32 and float64 on a CPU. The bounds are where both paths took equally long."""

    sparse_below = 0.15
    dense_above = 0.25

    def __init__(self) -> None:
        set_threads(torch.get_num_threads())
        self._block = EncodedRows.room(0, 0, np.dtype(np.float32))
        self._codes = np.empty(0, np.int32), np.empty(0, np.float32)
        # A guess of what the `k` largest codes of a row exceed, as a share of the row's norm.
        self._floor = 0.0

    def encode(
        self,
        x: Tensor,
        W_enc: Tensor,
        offset: Tensor,
        selection: Selection,
        rounded: Rounded | None = None,
        n_members: int = 1,
    ) -> Codes:
        batch, n_latents = len(x), len(W_enc) // n_members
        rows, members = _block(batch, n_latents, n_members)
        self._prepare(rows * members, n_latents, offset.numpy().dtype)
        of_members = W_enc.unflatten(0, (n_members, n_latents)), offset.view(n_members, n_latents)
        search: _Search = Exact(x, *of_members, rows) if rounded is None else Screen(x, *of_members, rows, rounded)
        start = np.zeros(n_members * batch + 1, np.int64)
        floor = np.zeros(batch, offset.numpy().dtype)
        size = torch.linalg.vector_norm(x, dim=-1).numpy() if isinstance(selection, Largest) else floor
        shares: list[float] = []
        at = 0
        for first in range(0, n_members, members):
            of_block = slice(first, min(first + members, n_members))
            for row in range(0, batch, rows):
                in_block = slice(row, min(row + rows, batch))
                encoded = self._block.head((of_block.stop - of_block.start) * (in_block.stop - in_block.start))
                if isinstance(selection, Largest):
                    shares.append(self._largest(search, of_block, in_block, encoded, selection.k, size[in_block]))
                else:
                    search(of_block, in_block, encoded, floor[in_block])
                ends = start[at : at + len(encoded.count) + 1]
                at += len(encoded.count)
                np.cumsum(encoded.count, out=ends[1:])
                ends[1:] += ends[0]
                self._make_room(int(ends[0]), int(ends[-1]))
                per = in_block.stop - in_block.start
                loops.collect(encoded.latent, encoded.value, ends, first * n_latents, n_latents, per, *self._codes)
        # The guess for the next call saves time; `_largest` checks it.
        self._floor = 0.9 * min(shares, default=0.0)
        latent, value = (torch.from_numpy(part[: start[-1]]) for part in self._codes)
        return Codes(torch.from_numpy(start), latent, value)

    def _prepare(self, rows: int, n_latents: int, dtype: np.dtype[Any]) -> None:
        if (rows, n_latents, dtype) != (*self._block.latent.shape, self._block.value.dtype):
            self._block = EncodedRows.room(rows, n_latents, dtype)
            self._codes = np.empty(0, np.int32), np.empty(0, dtype)

    def _largest(self, search: _Search, members: slice, rows: slice, into: EncodedRows, k: int, size: _Array) -> float:
        """Keeps the `k` largest of each row. Returns a share of the row's norm `size` that the smallest kept code
        exceeds in 98% of the rows."""
        search(members, rows, into, (self._floor * size).astype(size.dtype))
        if self._floor > 0 and int(into.count.min()) < k:
            search(members, rows, into, np.zeros_like(size))
        least = np.empty(len(into.count), into.value.dtype)
        loops.keep_largest(into.latent, into.value, into.count, k, least)
        shares = least.reshape(-1, len(size)) / np.maximum(size, np.finfo(size.dtype).tiny)
        return float(np.quantile(shares, 0.02))

    def _make_room(self, used: int, needed: int) -> None:
        """Grows the arrays of codes and keeps their first `used` entries."""
        if needed > len(self._codes[0]):
            grown = [np.empty(needed + needed // 2, part.dtype) for part in self._codes]
            for new, old in zip(grown, self._codes, strict=True):
                new[:used] = old[:used]
            self._codes = grown[0], grown[1]

    def decode(self, codes: Codes, W_dec: Tensor, b_dec: Tensor, x: Tensor, residual: Tensor) -> Tensor:
        grad = torch.empty_like(codes.value)
        loops.decode(*_arrays(*codes, W_dec, b_dec, x, residual, grad))
        return grad

    def reconstruct(self, codes: Codes, W_dec: Tensor, b_dec: Tensor, x: Tensor, residual: Tensor) -> None:
        loops.reconstruct(*_arrays(*codes, W_dec, b_dec, x, residual))

    def along_decoder(self, codes: Codes, W_dec: Tensor, residual: Tensor) -> Tensor:
        grad = torch.empty_like(codes.value)
        loops.along_decoder(*_arrays(codes.start, codes.latent, W_dec, residual, grad))
        return grad

    def transpose(self, codes: Codes, n_latents: int) -> ByLatent:
        n = len(codes.latent)
        by = ByLatent(torch.empty(n_latents + 1, dtype=torch.int64), *torch.empty(2, n, dtype=torch.int32))
        loops.transpose(*_arrays(codes.start, codes.latent, *by))
        return by

    def sums(self, by: ByLatent, values: Tensor) -> Tensor:
        total = values.new_empty(len(by.start) - 1)
        loops.sums(*_arrays(by.start, by.pair, values, total))
        return total

    def gradients(self, backward: SparseBackward, into: Latents) -> None:
        loops.gradients(*_backward(backward), *_arrays(*into))

    def descend(self, latents: TrainedLatents, gradient: Latents, adam: Adam) -> None:
        loops.descend(*_weights(latents), *_arrays(*gradient), *_rest(latents, adam))

    def update(self, latents: TrainedLatents, backward: SparseBackward, adam: Adam) -> None:
        loops.update(*_backward(backward), *_weights(latents), *_rest(latents, adam))


class EncodedRows:
    """Active latents of a block of rows: in row b the first ``count[b]`` entries of `latent` and `value`."""

    def __init__(self, latent: _Array, value: _Array, count: _Array) -> None:
        self.latent, self.value, self.count = latent, value, count

    @classmethod
    def room(cls, rows: int, n_latents: int, dtype: np.dtype[Any]) -> EncodedRows:
        """Room for every latent; the operating system allocates only the pages that are written."""
        shape = (rows, n_latents)
        return cls(np.empty(shape, np.int32), np.empty(shape, dtype), np.empty(rows, np.int64))

    def head(self, rows: int) -> EncodedRows:
        return EncodedRows(self.latent[:rows], self.value[:rows], self.count[:rows])


_Search = Callable[[slice, slice, EncodedRows, _Array], None]
"""Finds the codes of a slice of members in a slice of the batch's rows, above a floor for each row."""


def _block(batch: int, n_latents: int, n_members: int) -> tuple[int, int]:
    """How many rows of how many members are computed at a time; several members only where a batch is small.

    The number of rows does not depend on the number of members, so that a member's products are the same in any stack.
    """
    rows = min(batch, max(_LEAST_ROWS, _BLOCK // n_latents))
    return rows, min(n_members, max(1, _BLOCK // (rows * n_latents))) if rows == batch else 1


class Exact:
    """Searches the product in full precision."""

    def __init__(self, x: Tensor, W_enc: Tensor, offset: Tensor, rows: int) -> None:
        self.x, self.W_enc, self.offset, self.rows = x, W_enc, offset, rows
        self.pre = x.new_empty(0)

    def __call__(self, members: slice, rows: slice, into: EncodedRows, floor: _Array) -> None:
        pre = _products(self, self.x, self.W_enc, members, rows).numpy()
        loops.find_active(pre, self.offset[members].numpy(), rows.stop - rows.start, floor, *_parts(into))


class Screen:
    """Searches the product of rounded vectors; where that only screens, the codes are computed in full precision."""

    def __init__(self, x: Tensor, W_enc: Tensor, offset: Tensor, rows: int, rounded: Rounded) -> None:
        self.x, self.W_enc, self.offset, self.rows = x, W_enc, offset, rows
        self.exact, self.short = rounded.exact, x.to(torch.bfloat16)
        self.pre = self.short.new_empty(0)
        self.rounded = rounded.W_enc.view(W_enc.shape)
        self.norm, self.error = rounded.norm.view(offset.shape), rounded.error.view(offset.shape)
        if rounded.exact:
            norm = torch.linalg.vector_norm(x, dim=-1)
            # A sum of d products has d roundings of at most 2^-24 each; twice that, for each of the two sums.
            summing = x.shape[1] * 2.0**-22 * norm
            self.by_norm = torch.linalg.vector_norm(x - self.short, dim=-1) + summing
            self.by_error = torch.linalg.vector_norm(self.short.float(), dim=-1)
        else:
            self.by_norm = self.by_error = torch.zeros(len(x))

    def __call__(self, members: slice, rows: slice, into: EncodedRows, floor: _Array) -> None:
        words = _products(self, self.short, self.rounded, members, rows).view(torch.uint16)
        bound = (self.by_norm[rows], self.by_error[rows], self.norm[members], self.error[members])
        # The product is rounded to bfloat16: an error of at most 2^-9 of it, and less than 2^-8 of the rounded value.
        share, per = np.float32(2.0**-8 if self.exact else 0.0), rows.stop - rows.start
        offset = self.offset[members].numpy()
        loops.find_rounded(words.numpy(), offset, per, floor, *_arrays(*bound), share, *_parts(into))
        if self.exact:
            loops.exactly(*_arrays(self.x[rows], self.W_enc[members]), offset, floor, *_parts(into))


def _products(search: Exact | Screen, x: Tensor, W_enc: Tensor, members: slice, rows: slice) -> Tensor:
    """``x W_enc^T`` of `rows` for `members`, one member below the other, in the buffer of the search."""
    n_members, n_rows = members.stop - members.start, rows.stop - rows.start
    if len(search.pre) < n_members * n_rows:
        search.pre = x.new_empty(n_members * n_rows, W_enc.shape[1])
    pre = search.pre[: n_members * n_rows]
    for i, member in enumerate(W_enc[members]):
        torch.mm(x[rows], member.T, out=pre[i * n_rows : (i + 1) * n_rows])
    return pre


def _parts(rows: EncodedRows) -> tuple[_Array, _Array, _Array]:
    return rows.latent, rows.value, rows.count


def _arrays(*tensors: Tensor) -> list[_Array]:
    return [t.numpy() for t in tensors]


def _backward(backward: SparseBackward) -> list[Any]:
    """The arrays of the gradient, as the loops take them."""
    b = backward
    along = b.z.new_empty(0) if b.along is None else b.along
    return [*_arrays(*b.by, b.z, b.g, b.residual, b.x, b.centre, b.W_dec, along), b.W_dec.numpy().dtype.type(b.scale)]


def _weights(latents: TrainedLatents) -> list[_Array]:
    """The arrays of the parameters and both moments."""
    return _arrays(*latents.parameters, *latents.m, *latents.v)


def _rest(latents: TrainedLatents, adam: Adam) -> list[Any]:
    """Adam's numbers, whether rows are unit, and the arrays of the rounded encoder, which are empty for none.

    The numbers have the parameters' type, so that nothing is widened to float64.
    """
    p, rounded = latents.parameters, latents.rounded
    kind = p.W_dec.numpy().dtype.type
    betas = (adam.beta1, 1 - adam.beta1, adam.beta2, 1 - adam.beta2)
    hyper = tuple(kind(float(value)) for value in (adam.step_size, adam.root, *betas, adam.eps))
    none = p.b_enc.new_empty(0)
    tensors = (none.to(torch.uint16).reshape(0, 0), none, none)
    if rounded is not None:
        tensors = (rounded.W_enc.view(torch.uint16), rounded.norm, rounded.error)
    return [hyper, latents.unit_rows, *_arrays(*tensors)]
