"""The kernels in Triton, for NVIDIA GPUs.

The encoder's product stores one bit per pre-activation, in words of 32, which fit into the cache for any batch. Bits
are counted row by row, a cumulative sum gives every row its place, and the bits are spread into pairs, so that latents
ascend without a sort and without atomics. Decoding runs one program per row, the update one per latent: both gradients
of a latent are summed in registers, where Adam, the projection and the rounding of the encoder use them. A latent with
many pairs is summed in chunks beforehand, so that no program runs much longer than the others. Every result is a fixed
sequence of operations. The host waits for the device once per encoding, for the number of pairs.

There is no screen in float8: Hopper's float8 products keep about 14 bits of their sums, and a bound for that would have
to be measured on one.
"""

# Kernels have no types that a checker knows, and Triton is not installed where there is no GPU.
# pyright: basic, reportMissingImports=false, reportOperatorIssue=false, reportArgumentType=false
# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false

from __future__ import annotations

import inspect
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from sae.architecture import Largest, Selection
from sae.training.kernels import Adam, ByLatent, Codes, Kernels, Latents, Rounded, SparseBackward, TrainedLatents

IN_CACHE = 1 << 23
"""The number of pre-activations in a block of rows where they are stored: searched before they leave the L2 cache."""
_AT_ONCE = 1 << 28
"""The number of pre-activations in a block of rows where only the active ones leave the registers."""
FIND = 4096
"""The number of stored pre-activations that a program searches."""
_WORDS = 1024
"""The number of words of bits that a program holds."""
PAIRS = 256
"""The number of pairs that a program moves at a time."""
CHUNK = 256
"""The number of pairs of a latent in a chunk; longer lists are divided into chunks, each summed by its own program."""
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Whether Triton's interpreter runs the kernels on the CPU; it treats bfloat16 as integers in products."""


def kernel(function: Callable[..., Any]) -> Any:
    """Compiles a function, without the type checks that tests wrap around it."""
    return triton.jit(inspect.unwrap(function))


def launch(function: Any, grid: tuple[int, ...], of: Tensor, *args: Any, **meta: Any) -> None:
    """Runs a kernel on the device of its first tensor, unless the grid is empty."""
    if all(grid):
        with torch.cuda.device_of(of):
            function[grid](of, *args, **meta)


class Tile(NamedTuple):
    """The block of the encoder's product that a program computes."""

    rows: int
    """The number of samples."""
    latents: int
    """The number of latents."""
    inner: int
    """The number of input dimensions per step of the inner loop."""
    warps: int
    """Triton's `num_warps`."""
    stages: int
    """Triton's `num_stages`."""

    @classmethod
    def on(cls, device: torch.device) -> Tile:
        if device.type != "cuda":
            return cls(16, 64, 32, 1, 1)
        shared = getattr(torch.cuda.get_device_properties(device), "shared_memory_per_block_optin", 0)
        return cls(128, 256, 64, 8, 3) if shared > 160 << 10 else cls(128, 128, 32, 8, 3)


def row_of(d_in: int) -> dict[str, int]:
    """The launch settings for rows of this length: one program holds a row, eight entries per thread up to 16 warps."""
    width = triton.next_power_of_2(d_in)
    return {"D": width, "P": 4 if width <= 4096 else 2, "num_warps": min(16, max(1, width // 256))}


class Triton(Kernels):
    """The kernels for float32 parameters on a GPU.

    The bounds are estimates, not measurements. On an H200 a dense step computes about five products of 2 d flops per
    (row, latent) at about 50 Tflop/s, of which the sparse path saves four: 120 ps at d = 768. For an active pair the
    sparse path moves four or five rows of 4 d bytes through the L2 cache, about 4 ns. That breaks even at 3%; under
    TF32, where dense products are several times faster, below 1%.
    """

    sparse_below = 0.02
    dense_above = 0.03

    def __init__(self, fused: bool = True) -> None:
        """Without `fused`, a rounded product that is taken for the codes is torch's, through a stored block of rows."""
        self.fused = fused
        self._latent = torch.empty(0, dtype=torch.int32)
        self._value = torch.empty(0)
        self._chunks = torch.empty(0)

    def encode(
        self,
        x: Tensor,
        W_enc: Tensor,
        offset: Tensor,
        selection: Selection,
        rounded: Rounded | None = None,
        n_members: int = 1,
    ) -> Codes:
        search = self._search(x, W_enc, offset, selection, rounded, n_members)
        start = kept = torch.zeros(n_members * len(x) + 1, dtype=torch.int64, device=x.device)
        if len(self._latent) == 0 or self._latent.device != x.device:
            self._make_room(64 * n_members * len(x), x)
        while True:
            self._list(search, start)
            if search.bound is not None:
                kept = self._settle(x, W_enc, offset, start)
            # The only wait for the device.
            needed, total = torch.stack([start[-1], kept[-1]]).tolist()
            if needed <= len(self._latent):
                break
            self._make_room(needed + needed // 4, x)
        if search.bound is None:
            return Codes(start, self._latent[:total], self._value[:total])
        codes = Codes(kept, torch.empty_like(self._latent[:total]), torch.empty_like(self._value[:total]))
        launch(pack, (len(start) - 1,), start, self._latent, self._value, *codes, BLOCK=PAIRS)
        return codes

    def _search(
        self, x: Tensor, W_enc: Tensor, offset: Tensor, selection: Selection, rounded: Rounded | None, n_members: int
    ) -> _Search:
        """The search for these codes.

        The largest codes are not screened, because each row's threshold would have to be known in advance. Nor are rows
        that are not aligned to 16 bytes, which a tile cannot copy: torch's product takes them.
        """
        k = min(selection.k, len(W_enc) // n_members) if isinstance(selection, Largest) else None
        tiles = k is None and x.shape[1] % 16 == 0
        if rounded is None or (rounded.exact and not tiles):
            return _Stored(x, W_enc, offset, n_members, k)
        short = x.to(torch.bfloat16)
        if tiles and (self.fused or rounded.exact):
            return Fused(
                short, rounded.W_enc, offset, n_members, bound_of(x, short, rounded) if rounded.exact else None
            )
        return _Stored(short, rounded.W_enc, offset, n_members, k)

    def _list(self, search: _Search, start: Tensor) -> None:
        """Writes pairs in the order of rows and latents; those beyond the end of the buffers are only counted."""
        batch, n_latents, end = len(search.x), search.n_latents, 0
        n_words = triton.cdiv(n_latents, 32)
        words = torch.empty(search.members * search.rows, n_words, dtype=torch.int32, device=start.device)
        meta = {"BLOCK": min(_WORDS, triton.next_power_of_2(n_words))}
        for member in range(0, search.n_members, search.members):
            members = min(search.members, search.n_members - member)
            for row in range(0, batch, search.rows):
                rows = min(search.rows, batch - row)
                bits = words[: members * rows]
                pre = search(member, row, bits)
                ends = start[end : end + len(bits) + 1]
                end += len(bits)
                launch(count_bits, (len(bits),), bits, ends[1:], n_words, **meta)
                ends[1:].cumsum_(0).add_(ends[0])
                to = self._latent, self._value, len(self._latent), member
                launch(spread_bits, (len(bits),), bits, pre, search.offset, ends, *to, rows, n_latents, n_words, **meta)

    def _settle(self, x: Tensor, W_enc: Tensor, offset: Tensor, start: Tensor) -> Tensor:
        """Computes the codes of the screened pairs in float32; returns where the active ones of each row will start."""
        kept, (batch, d_in) = torch.zeros_like(start), x.shape
        screened = self._latent, self._value, len(self._latent)
        grid = (len(start) - 1,)
        launch(settle, grid, start, *screened, kept[1:], x, W_enc, offset, batch, d_in, **row_of(d_in))
        kept[1:].cumsum_(0)
        return kept

    def _make_room(self, pairs: int, like: Tensor) -> None:
        self._latent = torch.empty(pairs, dtype=torch.int32, device=like.device)
        self._value = torch.empty(pairs, device=like.device)

    def decode(self, codes: Codes, W_dec: Tensor, b_dec: Tensor, x: Tensor, residual: Tensor) -> Tensor:
        grad, (batch, d_in) = torch.empty_like(codes.value), x.shape
        launch(_decode, (len(residual),), *codes, W_dec, b_dec, x, residual, grad, batch, d_in, **row_of(d_in))
        return grad

    def transpose(self, codes: Codes, n_latents: int) -> ByLatent:
        # A radix sort takes half as many passes over numbers of half as many bits.
        short = n_latents < 1 << 15
        latent, pair = torch.sort(codes.latent.to(torch.int16) if short else codes.latent, stable=True)
        start = torch.searchsorted(latent, torch.arange(n_latents + 1, dtype=latent.dtype, device=latent.device))
        row = torch.searchsorted(codes.start, pair, right=True, out_int32=True) - 1
        return ByLatent(start, row, pair.int())

    def sums(self, by: ByLatent, values: Tensor) -> Tensor:
        total = values.new_empty(len(by.start) - 1)
        launch(sum_pairs, (len(total),), by.start, by.pair, values, total, BLOCK=128, num_warps=1)
        return total

    def gradients(self, backward: SparseBackward, into: Latents) -> None:
        n_latents, d_in = into.W_dec.shape
        meta, sizes = row_of(d_in), sizes_of(backward)
        launch(_gradients, (n_latents,), *self._arguments(backward), *into, *sizes, CHUNK=CHUNK, **meta)

    def descend(self, latents: TrainedLatents, gradient: Latents, adam: Adam) -> None:
        n_latents, d_in = latents.parameters.W_dec.shape
        meta = row_of(d_in) | numbers_of(adam, latents.unit_rows)
        meta.pop("P")
        launch(_descend, (n_latents,), *gradient, *_state_of(latents), d_in, **meta)

    def update(self, latents: TrainedLatents, backward: SparseBackward, adam: Adam) -> None:
        n_latents, d_in = latents.parameters.W_dec.shape
        meta, sizes = row_of(d_in) | numbers_of(adam, latents.unit_rows), sizes_of(backward)
        launch(_update, (n_latents,), *self._arguments(backward), *_state_of(latents), *sizes, CHUNK=CHUNK, **meta)

    def _arguments(self, backward: SparseBackward) -> tuple[Any, ...]:
        """The arguments of `_gradient_of`, after summing the chunks of long lists."""
        d_in, n_latents = backward.x.shape[1], len(backward.by.start) - 1
        # One program per possible chunk, so that the host need not know how many there are.
        most = len(backward.z) // CHUNK
        first = torch.zeros_like(backward.by.start)
        torch.cumsum(backward.by.start.diff() // CHUNK, 0, out=first[1:])
        latent = torch.searchsorted(first, torch.arange(most, device=first.device), right=True) - 1
        if self._chunks.numel() < most * (2 * d_in + 1) or self._chunks.device != first.device:
            self._chunks = backward.x.new_empty(most * (2 * d_in + 1))
        pairs = *backward.by, backward.z, backward.g, backward.residual, backward.x
        chunks, sizes = (first, self._chunks), sizes_of(backward)
        launch(sum_chunk, (most,), *pairs, *chunks, latent, n_latents, *sizes, CHUNK=CHUNK, **row_of(d_in))
        return *pairs, *chunks, backward.centre, backward.W_dec, backward.along, float(backward.scale)


def sizes_of(backward: SparseBackward) -> tuple[int, int, int]:
    """The number of latents of a member, the batch size and `d_in`."""
    batch, d_in = backward.x.shape
    return len(backward.W_dec) // len(backward.centre), batch, d_in


def numbers_of(adam: Adam, unit_rows: bool) -> dict[str, Any]:
    """Adam's numbers as arguments. The first two are in device memory where a graph was captured."""
    names = "step_size", "root", "beta1", "new1", "beta2", "new2", "eps"
    values = adam.step_size, adam.root, adam.beta1, 1 - adam.beta1, adam.beta2, 1 - adam.beta2, adam.eps
    return {**dict(zip(names, values, strict=True)), "HELD": isinstance(adam.step_size, Tensor), "UNIT": unit_rows}


def _state_of(latents: TrainedLatents) -> tuple[Tensor | None, ...]:
    """The parameters, both moments and the rounded encoder with its bits, norms and errors (None for none)."""
    rounded, bits = latents.rounded, (None, None, None)
    if rounded is not None:
        bits = rounded.W_enc.view(torch.int16), rounded.norm, rounded.error
    return *latents.parameters, *latents.m, *latents.v, *bits


def block(batch: int, n_latents: int, n_members: int, entries: int) -> tuple[int, int]:
    """How many rows of how many members are searched at a time; several members only where a batch is small.

    The number of rows, whole tiles of a product, does not depend on the number of members, so that a member's products
    are the same in any stack.
    """
    rows = min(batch, max(128, entries // n_latents // 128 * 128))
    return rows, min(n_members, max(1, entries // (rows * n_latents))) if rows == batch else 1


class Bound(NamedTuple):
    """The bound of :class:`Rounded` on the error: ``by_norm[b] norm[j] + by_error[b] error[j]``."""

    by_norm: Tensor
    """``||x - x'||`` of each row, with the rounding of the sums added."""
    by_error: Tensor
    """``||x'||`` of each row."""
    norm: Tensor
    """``||w||`` of each latent."""
    error: Tensor
    """``||w - w'||`` of each latent."""


def bound_of(x: Tensor, short: Tensor, rounded: Rounded) -> Bound:
    """The bound for the rows `x`, rounded to `short`."""
    norm = torch.linalg.vector_norm(x, dim=-1)
    # Tensor cores truncate summands at about 2^-23 of the largest; d products, twice that.
    summing = x.shape[1] * 2.0**-22 * norm
    by_norm = torch.linalg.vector_norm(x - short, dim=-1) + summing
    return Bound(by_norm, torch.linalg.vector_norm(short.float(), dim=-1), rounded.norm, rounded.error)


class _Search(ABC):
    """Sets the bits of pre-activations that are active, or with a bound may be, in blocks of rows and members."""

    def __init__(self, x: Tensor, W: Tensor, offset: Tensor, n_members: int, bound: Bound | None, entries: int) -> None:
        self.x, self.W, self.offset, self.bound = x, W, offset, bound
        self.n_members, self.n_latents = n_members, len(W) // n_members
        self.rows, self.members = block(len(x), self.n_latents, n_members, entries)

    @abstractmethod
    def __call__(self, member: int, row: int, words: Tensor) -> Tensor | None:
        """Searches the block that starts at `member` and `row`, into the rows of `words`.

        Returns the pre-activations without their offset; None with a bound, after which codes are computed again.
        """

    def _size(self, row: int, words: Tensor) -> tuple[int, int]:
        """The number of members and of rows in a block."""
        rows = min(self.rows, len(self.x) - row)
        return len(words) // rows, rows


class _Stored(_Search):
    """Searches torch's product, of any precision, for the positive entries or the `k` largest of a row."""

    def __init__(self, x: Tensor, W: Tensor, offset: Tensor, n_members: int, k: int | None) -> None:
        super().__init__(x, W, offset, n_members, None, IN_CACHE)
        self.k = k
        self.pre = x.new_empty(self.members * self.rows, self.n_latents)

    def __call__(self, member: int, row: int, words: Tensor) -> Tensor:
        (members, rows), n_latents = self._size(row, words), self.n_latents
        W, pre = self.W.unflatten(0, (self.n_members, n_latents)), self.pre[: len(words)]
        for i in range(members):
            torch.mm(self.x[row : row + rows], W[member + i].T, out=pre[i * rows : (i + 1) * rows])
        offset, sizes = self.offset[member * n_latents :], (rows, n_latents, words.shape[1])
        if self.k is None:
            launch(_find, (len(words), triton.cdiv(n_latents, FIND)), pre, offset, words, *sizes, BLOCK=FIND)
        else:
            width = max(32, triton.next_power_of_2(n_latents))
            meta = {"BLOCK": width, "num_warps": min(16, max(1, width // 1024))}
            launch(find_largest, (len(words),), pre, offset, words, self.k, *sizes, **meta)
        return pre


class Fused(_Search):
    """Searches the product of rounded vectors tile by tile, in registers."""

    def __init__(self, x: Tensor, W: Tensor, offset: Tensor, n_members: int, bound: Bound | None) -> None:
        super().__init__(x, W, offset, n_members, bound, _AT_ONCE)
        self.tile = Tile.on(x.device)
        # Only active entries are stored; the rest of this memory is never touched.
        self.pre = x.new_empty(self.members * self.rows, self.n_latents) if bound is None else None

    def __call__(self, member: int, row: int, words: Tensor) -> Tensor | None:
        (members, rows), tile, d_in = self._size(row, words), self.tile, self.x.shape[1]
        of_rows, of_latents = slice(row, row + rows), slice(member * self.n_latents, None)
        bound: tuple[Tensor | None, ...] = (None, None, None, None)
        if self.bound is not None:
            bound = *(part[of_rows] for part in self.bound[:2]), *(part[of_latents] for part in self.bound[2:])
        tiles = triton.cdiv(rows, tile.rows) * triton.cdiv(self.n_latents, tile.latents)
        tensors = self.x[of_rows], self.W[of_latents], self.offset[of_latents], *bound, words, self.pre
        sizes = rows, self.n_latents, d_in, words.shape[1]
        shape = {"ROWS": tile.rows, "LATENTS": tile.latents, "INNER": tile.inner, "EVEN": d_in % tile.inner == 0}
        meta = {**shape, "SCREEN": self.bound is not None, "WIDEN": INTERPRETED}
        launch(_find_rounded, (tiles, members), *tensors, *sizes, **meta, num_warps=tile.warps, num_stages=tile.stages)
        return self.pre


@kernel
def ones(word):
    """The number of bits of a word that are set."""
    pairs = word - ((word >> 1) & 0x55555555)
    fours = (pairs & 0x33333333) + ((pairs >> 2) & 0x33333333)
    bytes_ = (fours + (fours >> 4)) & 0x0F0F0F0F
    return ((bytes_ * 0x01010101) >> 24).to(tl.int32)


@kernel
def packed(active):
    """32 truth values along the last axis as a word."""
    lane = tl.arange(0, 32).to(tl.uint32)
    for _ in tl.static_range(len(active.shape) - 1):
        lane = tl.expand_dims(lane, 0)
    return tl.sum(active.to(tl.uint32) << lane, len(active.shape) - 1).to(tl.int32, bitcast=True)


@kernel
def _find(pre, offset, words, rows, n_latents, n_words, BLOCK: tl.constexpr):
    """Sets the bits of the entries of ``pre + offset`` that exceed zero.

    `pre` has `rows` rows per member, one member below the other; so have the words, here and in other kernels.
    """
    b, first = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK
    j = first + tl.arange(0, BLOCK)
    inside = j < n_latents
    y = tl.load(pre + b * n_latents + j, mask=inside, other=0.0).to(tl.float32)
    active = inside & (y + tl.load(offset + b // rows * n_latents + j, mask=inside, other=0.0) > 0)
    w = first // 32 + tl.arange(0, BLOCK // 32)
    tl.store(words + b * n_words + w, packed(tl.reshape(active, [BLOCK // 32, 32])), mask=w < n_words)


@kernel
def find_largest(pre, offset, words, k, rows, n_latents, n_words, BLOCK: tl.constexpr):
    """Sets the bits of the `k` largest of a row of ``pre + offset``, where positive; of equal ones, the leftmost.

    Positive floats are ordered as their bits. The k-th largest is the greatest number that at least k entries reach,
    which is found bit by bit.
    """
    b, j = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    y = tl.load(pre + b * n_latents + j, mask=j < n_latents, other=0.0).to(tl.float32)
    y += tl.load(offset + b // rows * n_latents + j, mask=j < n_latents, other=0.0)
    key = tl.where(y > 0, y, 0.0).to(tl.int32, bitcast=True)
    kth = tl.min(key, 0) * 0
    for i in range(31):
        more = kth + (1 << (30 - i))
        kth = tl.where(tl.sum((key >= more).to(tl.int32), 0) >= k, more, kth)
    equal = ((key == kth) & (kth > 0)).to(tl.int32)
    left = k - tl.sum((key > kth).to(tl.int32), 0)
    active = (key > kth) | ((equal > 0) & (tl.cumsum(equal, 0) <= left))
    w = tl.arange(0, BLOCK // 32)
    tl.store(words + b * n_words + w, packed(tl.reshape(active, [BLOCK // 32, 32])), mask=w < n_words)


@kernel
def _find_rounded(
    x, W, offset, by_norm, by_error, norm, error, words, value, rows, n_latents, d_in, n_words,
    ROWS: tl.constexpr, LATENTS: tl.constexpr, INNER: tl.constexpr, EVEN: tl.constexpr,
    SCREEN: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """Sets the bits of the entries in a tile of a member's ``x W^T + offset`` that exceed zero, or with SCREEN may.

    Without SCREEN the active entries of ``x W^T`` are stored.
    """
    member = tl.program_id(1).to(tl.int64)
    b, first = tile_of(rows, n_latents, ROWS, LATENTS)
    b += tl.arange(0, ROWS)
    j, i = first + tl.arange(0, LATENTS), tl.arange(0, INNER)
    # Rows beyond the last wrap around; their results are not stored.
    of_x = x + (b % rows).to(tl.int64)[:, None] * d_in + i[None, :]
    of_W = W + (member * n_latents + j % n_latents)[:, None] * d_in + i[None, :]
    y = tl.zeros([ROWS, LATENTS], tl.float32)
    for k in range(0, d_in, INNER):
        if EVEN:
            u, w = tl.load(of_x), tl.load(of_W)
        else:
            left = (i < d_in - k)[None, :]
            u, w = tl.load(of_x, mask=left, other=0.0), tl.load(of_W, mask=left, other=0.0)
        if WIDEN:
            u, w = u.to(tl.float32), w.to(tl.float32)
        y = tl.dot(u, tl.trans(w), y)
        of_x += INNER
        of_W += INNER
    in_rows, in_latents = b < rows, j < n_latents
    inside = in_rows[:, None] & in_latents[None, :]
    latent, place = member * n_latents + j, (member * rows + b)[:, None]
    least = -tl.load(offset + latent, mask=in_latents, other=0.0)[None, :]
    if SCREEN:
        u, v = tl.load(by_norm + b, mask=in_rows, other=0.0), tl.load(by_error + b, mask=in_rows, other=0.0)
        w, e = tl.load(norm + latent, mask=in_latents, other=0.0), tl.load(error + latent, mask=in_latents, other=0.0)
        active = inside & (y + (u[:, None] * w[None, :] + v[:, None] * e[None, :]) > least)
    else:
        short = y.to(tl.bfloat16)
        active = inside & (short.to(tl.float32) > least)
        tl.store(value + place * n_latents + j[None, :], short, mask=active)
    w = first // 32 + tl.arange(0, LATENTS // 32)
    there = in_rows[:, None] & (w < n_words)[None, :]
    bits = packed(tl.reshape(active, [ROWS, LATENTS // 32, 32]))
    tl.store(words + place * n_words + w[None, :], bits, mask=there)


@kernel
def tile_of(rows, n_latents, ROWS: tl.constexpr, LATENTS: tl.constexpr):
    """The first row and latent of this program's tile. Eight tiles of rows take turns, so that inputs stay cached."""
    TOGETHER: tl.constexpr = 8
    down, across = tl.cdiv(rows, ROWS), tl.cdiv(n_latents, LATENTS)
    group = tl.program_id(0) // (TOGETHER * across)
    height = tl.minimum(down - group * TOGETHER, TOGETHER)
    place = tl.program_id(0) % (TOGETHER * across)
    return (group * TOGETHER + place % height) * ROWS, (place // height) * LATENTS


@kernel
def count_bits(words, count, n_words, BLOCK: tl.constexpr):
    """The number of bits of a row that are set."""
    b = tl.program_id(0).to(tl.int64)
    total = tl.zeros([BLOCK], tl.int32)
    for first in range(0, n_words, BLOCK):
        w = first + tl.arange(0, BLOCK)
        total += ones(tl.load(words + b * n_words + w, mask=w < n_words, other=0).to(tl.uint32, bitcast=True))
    tl.store(count + b, tl.sum(total, 0).to(tl.int64))


@kernel
def spread_bits(
    words, pre, offset, start, latent, value, room, member, rows, n_latents, n_words, BLOCK: tl.constexpr
):  # fmt: skip
    """The pairs of a row from its bits: every word yields its lowest bit, as often as the fullest word has bits.

    `member` is the index of the first member; latents are numbered across members.
    """
    b = tl.program_id(0).to(tl.int64)
    before = (member + b // rows) * n_latents
    base = tl.load(start + b)
    for first in range(0, n_words, BLOCK):
        w = first + tl.arange(0, BLOCK)
        bits = tl.load(words + b * n_words + w, mask=w < n_words, other=0).to(tl.uint32, bitcast=True)
        many = ones(bits)
        place = base + tl.cumsum(many, 0) - many
        for _ in range(tl.max(many, 0)):
            # Where no bit is left this is 32 w + 32, which is not stored.
            j = 32 * w + ones((bits & (~bits + 1)) - 1)
            fits = (bits != 0) & (place < room)
            tl.store(latent + place, (before + j).to(tl.int32), mask=fits)
            if pre is not None:
                y = tl.load(pre + b * n_latents + j, mask=fits, other=0.0).to(tl.float32)
                tl.store(value + place, y + tl.load(offset + before + j, mask=fits, other=0.0), mask=fits)
            bits = bits & (bits - 1)
            place += 1
        base += tl.sum(many, 0)


@kernel
def settle(start, latent, value, room, count, x, W_enc, offset, batch, d_in, D: tl.constexpr, P: tl.constexpr):
    """The codes of a row's screened pairs in float32, and the number of positive ones."""
    b = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, D)
    inside = at < d_in
    row = tl.load(x + b % batch * d_in + at, mask=inside, other=0.0)
    positive = tl.zeros([P], tl.int32)
    last = tl.minimum(tl.load(start + b + 1), room)
    for q in range(tl.load(start + b), last, P):
        at_pair = q + tl.arange(0, P)
        here = at_pair < last
        j = tl.load(latent + at_pair, mask=here, other=0).to(tl.int64)
        w = tl.load(W_enc + j[:, None] * d_in + at[None, :], mask=here[:, None] & inside[None, :], other=0.0)
        y = tl.sum(w * row[None, :], 1) + tl.load(offset + j, mask=here, other=0.0)
        tl.store(value + at_pair, y, mask=here)
        positive += (here & (y > 0)).to(tl.int32)
    tl.store(count + b, tl.sum(positive, 0).to(tl.int64))


@kernel
def pack(start, latent, value, to_start, to_latent, to_value, BLOCK: tl.constexpr):
    """The positive pairs of a row, in their order."""
    b = tl.program_id(0)
    last, base = tl.load(start + b + 1), tl.load(to_start + b)
    for q in range(tl.load(start + b), last, BLOCK):
        at_pair = q + tl.arange(0, BLOCK)
        z = tl.load(value + at_pair, mask=at_pair < last, other=0.0)
        keep = (z > 0).to(tl.int32)
        place = base + tl.cumsum(keep, 0) - 1
        tl.store(to_value + place, z, mask=z > 0)
        tl.store(to_latent + place, tl.load(latent + at_pair, mask=z > 0, other=0), mask=z > 0)
        base += tl.sum(keep, 0)


@kernel
def _decode(start, latent, value, W_dec, b_dec, x, residual, grad, batch, d_in, D: tl.constexpr, P: tl.constexpr):
    """``r = z W_dec + b_dec - x`` of a row, and ``r . W_dec[latent]`` of its pairs while the decoder is cached."""
    b = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, D)
    inside = at < d_in
    first, last = tl.load(start + b), tl.load(start + b + 1)
    r = tl.load(b_dec + b // batch * d_in + at, mask=inside, other=0.0)
    r -= tl.load(x + b % batch * d_in + at, mask=inside, other=0.0)
    for q in range(first, last, P):
        at_pair = q + tl.arange(0, P)
        z = tl.load(value + at_pair, mask=at_pair < last, other=0.0)
        j = tl.load(latent + at_pair, mask=at_pair < last, other=0).to(tl.int64)
        within = (at_pair < last)[:, None] & inside[None, :]
        r += tl.sum(z[:, None] * tl.load(W_dec + j[:, None] * d_in + at[None, :], mask=within, other=0.0), 0)
    tl.store(residual + b * d_in + at, r, mask=inside)
    for q in range(first, last, P):
        at_pair = q + tl.arange(0, P)
        j = tl.load(latent + at_pair, mask=at_pair < last, other=0).to(tl.int64)
        within = (at_pair < last)[:, None] & inside[None, :]
        w = tl.load(W_dec + j[:, None] * d_in + at[None, :], mask=within, other=0.0)
        tl.store(grad + at_pair, tl.sum(w * r[None, :], 1), mask=at_pair < last)


@kernel
def sum_pairs(start, pair, values, total, BLOCK: tl.constexpr):
    """The sum of a latent's values."""
    j = tl.program_id(0).to(tl.int64)
    last = tl.load(start + j + 1)
    sums = tl.zeros([BLOCK], tl.float32)
    for q in range(tl.load(start + j), last, BLOCK):
        at_pair = q + tl.arange(0, BLOCK)
        sums += tl.load(values + tl.load(pair + at_pair, mask=at_pair < last, other=0), mask=at_pair < last, other=0.0)
    tl.store(total + j, tl.sum(sums, 0))


@kernel
def sums_of(first, last, row, pair, z, g, residual, x, before, d_in, D: tl.constexpr, P: tl.constexpr):
    """``sum z r``, ``sum g x`` and ``sum g`` over pairs `first` to `last`; `before` rows belong to earlier members."""
    at = tl.arange(0, D)
    inside = at < d_in
    dec, enc, bias = tl.zeros([D], tl.float32), tl.zeros([D], tl.float32), tl.zeros([P], tl.float32)
    for q in range(first, last, P):
        at_pair = q + tl.arange(0, P)
        here = at_pair < last
        p = tl.load(pair + at_pair, mask=here, other=0)
        b = tl.load(row + at_pair, mask=here, other=0).to(tl.int64)[:, None]
        within = here[:, None] & inside[None, :]
        zs, gs = tl.load(z + p, mask=here, other=0.0), tl.load(g + p, mask=here, other=0.0)
        dec += tl.sum(zs[:, None] * tl.load(residual + b * d_in + at[None, :], mask=within, other=0.0), 0)
        enc += tl.sum(gs[:, None] * tl.load(x + (b - before) * d_in + at[None, :], mask=within, other=0.0), 0)
        bias += gs
    return dec, enc, tl.sum(bias, 0)


@kernel
def sum_chunk(
    start, row, pair, z, g, residual, x, chunk_start, chunks, latent, total, n_latents, batch, d_in,
    CHUNK: tl.constexpr, D: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    """The three sums over one chunk of a latent's pairs, stored one after the other in a row of `chunks`."""
    c = tl.program_id(0).to(tl.int64)
    j = tl.load(latent + c)
    if j < total:
        before = j // n_latents * batch
        first = tl.load(start + j) + (c - tl.load(chunk_start + j)) * CHUNK
        dec, enc, bias = sums_of(first, first + CHUNK, row, pair, z, g, residual, x, before, d_in, D, P)
        at, to = tl.arange(0, D), chunks + c * (2 * d_in + 1)
        tl.store(to + at, dec, mask=at < d_in)
        tl.store(to + d_in + at, enc, mask=at < d_in)
        tl.store(to + 2 * d_in, bias)


@kernel
def _gradient_of(
    j, start, row, pair, z, g, residual, x, chunk_start, chunks, b_dec, W_dec, along, scale, n_latents, batch, d_in,
    CHUNK: tl.constexpr, D: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    """The gradient of a latent's rows and bias: the sums of its chunks and of the remaining pairs."""
    at = tl.arange(0, D)
    inside = at < d_in
    chunk, end = tl.load(chunk_start + j), tl.load(chunk_start + j + 1)
    first = tl.load(start + j) + (end - chunk) * CHUNK
    member, last = j // n_latents, tl.load(start + j + 1)
    dec, enc, bias = sums_of(first, last, row, pair, z, g, residual, x, member * batch, d_in, D, P)
    for c in range(chunk, end):
        one = chunks + c * (2 * d_in + 1)
        dec += tl.load(one + at, mask=inside, other=0.0)
        enc += tl.load(one + d_in + at, mask=inside, other=0.0)
        bias += tl.load(one + 2 * d_in)
    dec *= scale
    if along is not None:
        dec += tl.load(along + j) * tl.load(W_dec + j * d_in + at, mask=inside, other=0.0)
    enc = scale * (enc - bias * tl.load(b_dec + member * d_in + at, mask=inside, other=0.0))
    return dec, enc, scale * bias


@kernel
def _gradients(
    start, row, pair, z, g, residual, x, chunk_start, chunks, b_dec, W_dec, along, scale,
    to_enc, to_dec, to_bias, n_latents, batch, d_in, CHUNK: tl.constexpr, D: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    j = tl.program_id(0).to(tl.int64)
    dec, enc, bias = _gradient_of(
        j, start, row, pair, z, g, residual, x, chunk_start, chunks, b_dec, W_dec, along, scale,
        n_latents, batch, d_in, CHUNK, D, P,
    )  # fmt: skip
    at = tl.arange(0, D)
    tl.store(to_enc + j * d_in + at, enc, mask=at < d_in)
    tl.store(to_dec + j * d_in + at, dec, mask=at < d_in)
    tl.store(to_bias + j, bias)


@kernel
def moved(w, m, v, where, inside, gradient, step_size, root, beta1, new1, beta2, new2, eps):
    """Entries of a parameter after a step of Adam, which updates the moments in place."""
    mean = beta1 * tl.load(m + where, mask=inside, other=0.0) + new1 * gradient
    square = beta2 * tl.load(v + where, mask=inside, other=0.0) + new2 * gradient * gradient
    tl.store(m + where, mean, mask=inside)
    tl.store(v + where, square, mask=inside)
    return w - step_size * mean / (tl.sqrt(square) * root + eps)


@kernel
def _descend_one(
    j, dec, enc, bias, W_enc, W_dec, b_enc, m_enc, m_dec, m_bias, v_enc, v_dec, v_bias, short, norm, error,
    step_size, root, beta1, new1, beta2, new2, eps, d_in, HELD: tl.constexpr, UNIT: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """One step of Adam for a latent with the given gradients."""
    if HELD:
        pace, stretch = tl.load(step_size), tl.load(root)
    else:
        pace, stretch = step_size, root
    at = tl.arange(0, D)
    inside, where = at < d_in, j * d_in + at
    w = tl.load(W_dec + where, mask=inside, other=0.0)
    if UNIT:
        dec -= tl.sum(dec * w, 0) * w
    w = moved(w, m_dec, v_dec, where, inside, dec, pace, stretch, beta1, new1, beta2, new2, eps)
    if UNIT:
        w = w / tl.maximum(tl.sqrt(tl.sum(tl.where(inside, w * w, 0.0), 0)), 1e-12)
    tl.store(W_dec + where, w, mask=inside)
    w = tl.load(W_enc + where, mask=inside, other=0.0)
    w = moved(w, m_enc, v_enc, where, inside, enc, pace, stretch, beta1, new1, beta2, new2, eps)
    tl.store(W_enc + where, w, mask=inside)
    if short is not None:
        # To the nearest, halves to even, on the bits: the same on every device.
        word = w.to(tl.uint32, bitcast=True)
        word = (word + 0x7FFF + ((word >> 16) & 1)) >> 16
        away = tl.where(inside, w - (word << 16).to(tl.float32, bitcast=True), 0.0)
        tl.store(short + where, word.to(tl.int16), mask=inside)
        tl.store(norm + j, tl.sqrt(tl.sum(tl.where(inside, w * w, 0.0), 0)))
        tl.store(error + j, tl.sqrt(tl.sum(away * away, 0)))
    one = tl.arange(0, 1)
    b = tl.load(b_enc + j + one)
    b = moved(b, m_bias, v_bias, j + one, one < 1, bias, pace, stretch, beta1, new1, beta2, new2, eps)
    tl.store(b_enc + j + one, b)


@kernel
def _descend(
    to_enc, to_dec, to_bias, W_enc, W_dec, b_enc, m_enc, m_dec, m_bias, v_enc, v_dec, v_bias, short, norm, error, d_in,
    step_size, root, beta1, new1, beta2, new2, eps, HELD: tl.constexpr, UNIT: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    j = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, D)
    dec = tl.load(to_dec + j * d_in + at, mask=at < d_in, other=0.0)
    enc = tl.load(to_enc + j * d_in + at, mask=at < d_in, other=0.0)
    _descend_one(
        j, dec, enc, tl.load(to_bias + j), W_enc, W_dec, b_enc, m_enc, m_dec, m_bias, v_enc, v_dec, v_bias,
        short, norm, error, step_size, root, beta1, new1, beta2, new2, eps, d_in, HELD, UNIT, D,
    )  # fmt: skip


@kernel
def _update(
    start, row, pair, z, g, residual, x, chunk_start, chunks, b_dec, old_dec, along, scale,
    W_enc, W_dec, b_enc, m_enc, m_dec, m_bias, v_enc, v_dec, v_bias, short, norm, error, n_latents, batch, d_in,
    step_size, root, beta1, new1, beta2, new2, eps,
    CHUNK: tl.constexpr, HELD: tl.constexpr, UNIT: tl.constexpr, D: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    """The gradient and step of a latent; no other program reads or writes its rows."""
    j = tl.program_id(0).to(tl.int64)
    dec, enc, bias = _gradient_of(
        j, start, row, pair, z, g, residual, x, chunk_start, chunks, b_dec, old_dec, along, scale,
        n_latents, batch, d_in, CHUNK, D, P,
    )  # fmt: skip
    _descend_one(
        j, dec, enc, bias, W_enc, W_dec, b_enc, m_enc, m_dec, m_bias, v_enc, v_dec, v_bias,
        short, norm, error, step_size, root, beta1, new1, beta2, new2, eps, d_in, HELD, UNIT, D,
    )  # fmt: skip
