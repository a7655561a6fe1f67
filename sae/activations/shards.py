"""Shards of rows on disk: safetensors files that are written whole or not at all, and read through a memory map.

A shard holds named tensors with the same number of rows: activations ``[rows, d_in]`` with side columns (document,
position, token), or rows of tokens. Shards may differ in their number of rows, never in names, widths or types.
"""

from __future__ import annotations

import json
import math
import mmap
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae.numerics.atomic_write import atomic_file
from sae.numerics.memory import memory_of
from sae.numerics.seeds import HAS_NUMBA
from sae.registry import MissingFileError, UserError

_DTYPES = {
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I8": torch.int8,
}
# NumPy has no bfloat16; rows are moved as plain words of the right size and named for what they are afterwards.
_WORDS = {4: np.uint32, 2: np.uint16, 8: np.uint64, 1: np.uint8}
MEMORY_SHARE = 0.5
"""Shards that take more of the machine's memory are not counted on to stay there."""
BYTES_PER_THREAD = 1 << 18
"""What a thread must have to copy to be worth its start."""


def write_shard(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes one shard: a kill at any moment leaves either the whole file or none under its name."""
    from safetensors.torch import save_file

    assert len({len(t) for t in tensors.values()}) == 1, "the tensors of a shard have the same number of rows"
    with atomic_file(file, file.with_name(file.name + ".partial")) as partial:
        save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, partial)


@dataclass(frozen=True, eq=False)
class Shard:
    """One file: where each tensor lies in it. Nothing is read but the header until rows are asked for."""

    file: Path
    start: int
    entries: Mapping[str, Mapping[str, Any]]

    @classmethod
    def open(cls, file: Path) -> Shard:
        """Reads the header; a ``ValueError`` names a file that is cut short or no shard."""
        if not file.is_file():
            raise MissingFileError(f"{file}: this shard of activations is missing; prepare the source again")
        with file.open("rb") as f:
            length = int.from_bytes(f.read(8), "little")
            header = f.read(min(length, file.stat().st_size))
        entries: dict[str, dict[str, Any]] = {}
        try:
            entries = json.loads(header)
            entries.pop("__metadata__", None)
            end = 8 + length + max(e["data_offsets"][1] for e in entries.values())
            [rows] = {e["shape"][0] for e in entries.values()}
            whole = end == file.stat().st_size and all(e["dtype"] in _DTYPES for e in entries.values())
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            whole, rows = False, 0
        if not whole or rows < 0:
            raise UserError(f"{file}: this shard is cut short or damaged; delete it and prepare the source again")
        return cls(file, 8 + length, entries)

    @property
    def n_rows(self) -> int:
        return next(iter(self.entries.values()))["shape"][0]

    @cached_property
    def _map(self) -> mmap.mmap:
        with self.file.open("rb") as f:
            return mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)

    def words(self, name: str) -> NDArray[Any]:
        """The tensor as a memory map of words ``[rows, ...]``; the operating system loads the pages touched."""
        entry = self.entries[name]
        begin, end = entry["data_offsets"]
        word = _WORDS[_DTYPES[entry["dtype"]].itemsize]
        count = (end - begin) // np.dtype(word).itemsize
        return np.frombuffer(self._map, word, count, self.start + begin).reshape(entry["shape"])

    def call_in(self, name: str, row: int) -> None:
        """Asks the disk for one row, and does not wait for it."""
        entry = self.entries[name]
        size = (entry["data_offsets"][1] - entry["data_offsets"][0]) // self.n_rows
        begin = self.start + entry["data_offsets"][0] + row * size
        page = begin // mmap.PAGESIZE * mmap.PAGESIZE
        self._map.madvise(mmap.MADV_WILLNEED, page, begin + size - page)


class Pace:
    """Whether work is faster in one thread or in many, by how long it took of late.

    Many threads wait for the last of them, which takes long where other processes have the cores. The way that was
    the slower one is tried again every `AGAIN` times.
    """

    AGAIN = 50
    NEWEST = 0.3

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}
        self._times = 0

    def untried(self, threads: int) -> list[int]:
        return [n for n in (threads, 1) if n not in self._seconds]

    def choose(self, threads: int) -> int:
        """`threads` or 1."""
        self._times += 1
        if untried := self.untried(threads):
            return untried[0]
        faster, slower = sorted((threads, 1), key=self._seconds.__getitem__)
        return faster if self._times % self.AGAIN else slower

    def took(self, threads: int, seconds: float) -> None:
        """Notes what a piece of work took, for its size."""
        before = self._seconds.get(threads, seconds)
        self._seconds[threads] = before + self.NEWEST * (seconds - before)


class Shards:
    """All shards of a split as one table of ``n_rows`` rows."""

    def __init__(self, files: Sequence[Path]) -> None:
        if not files:
            raise UserError("no shards were given")
        self.shards = [Shard.open(file) for file in files]
        first = self.shards[0]
        for shard in self.shards[1:]:
            if _columns(shard) != _columns(first):
                raise UserError(f"{shard.file}: it holds other tensors than {first.file.name}; prepare it again")
        self.ends = np.cumsum([s.n_rows for s in self.shards])
        self.n_rows = int(self.ends[-1])
        self._found: dict[str, NDArray[np.uint64]] = {}
        self._pace = Pace()

    @property
    def names(self) -> list[str]:
        return sorted(self.shards[0].entries)

    def width(self, name: str = "acts") -> int:
        return self.shards[0].entries[name]["shape"][1]

    def rows(self, index: NDArray[np.int64], name: str = "acts", device: str = "cpu") -> Tensor:
        """The rows asked for, in the order asked for, on `device`; floating-point ones as float32.

        Rows travel to the device in the type they are stored in, and are widened there.
        """
        entry = self.shards[0].entries[name]
        dtype, on_gpu = _DTYPES[entry["dtype"]], device.startswith("cuda")
        assert len(index) == 0 or (index.min() >= 0 and index.max() < self.n_rows), "no such row"
        rows = torch.empty((len(index), *entry["shape"][1:]), dtype=dtype, pin_memory=on_gpu)
        words = rows.view(torch.uint8).numpy().view(_WORDS[dtype.itemsize])
        if self._beyond_memory:
            self._call_in(index, name)
        if HAS_NUMBA:
            self._gather(np.ascontiguousarray(index, dtype=np.int64), name, words)
        else:
            self._by_numpy(index, name, words)
        rows = rows.to(device, non_blocking=on_gpu)
        return rows.float() if dtype.is_floating_point else rows

    def _gather(self, index: NDArray[np.int64], name: str, out: NDArray[Any]) -> None:
        """Copies the rows, in as many threads as torch takes where there is enough to copy and it is faster so.

        Called from a thread of its own it stays there: batches that are made beside one another take the cores up
        already, and not every threading layer of numba's may be entered twice at once.
        """
        from sae.numerics.numba_loops import gather, gather_in_pieces

        start, out = self._addresses(name), out.reshape(len(index), math.prod(out.shape[1:]))
        pieces = min(torch.get_num_threads(), out.nbytes // BYTES_PER_THREAD)
        if pieces < 2 or threading.current_thread() is not threading.main_thread():
            gather(start, self.ends, index, out)
            return
        for warm in self._pace.untried(pieces):
            gather_in_pieces(start, self.ends, index[:0], out[:0], warm)
        pieces = self._pace.choose(pieces)
        began = time.perf_counter()
        gather_in_pieces(start, self.ends, index, out, pieces)
        self._pace.took(pieces, (time.perf_counter() - began) / out.nbytes)

    def _by_numpy(self, index: NDArray[np.int64], name: str, out: NDArray[Any]) -> None:
        order = np.argsort(index, kind="stable")
        sorted_index = index[order]
        cuts = np.searchsorted(sorted_index, self.ends)
        begin = 0
        for shard, end, first in zip(self.shards, cuts, self._firsts, strict=True):
            if end > begin:
                out[order[begin:end]] = shard.words(name)[sorted_index[begin:end] - first]
            begin = end

    @cached_property
    def _firsts(self) -> NDArray[np.int64]:
        return self.ends - np.array([s.n_rows for s in self.shards])

    def _addresses(self, name: str) -> NDArray[np.uint64]:
        """Where in memory each shard's tensor lies; the maps are kept as long as the shards are."""
        if name not in self._found:
            self._found[name] = np.array([s.words(name).ctypes.data for s in self.shards], dtype=np.uint64)
        return self._found[name]

    @cached_property
    def _beyond_memory(self) -> bool:
        """Whether the shards are too large to stay in memory once they were read."""
        size = sum(shard.file.stat().st_size for shard in self.shards)
        return hasattr(mmap, "MADV_WILLNEED") and size > MEMORY_SHARE * memory_of("cpu")

    def _call_in(self, index: NDArray[np.int64], name: str) -> None:
        """Asks the disk for all rows at once, in the order in which they lie there.

        Touched one after the other, each would be waited for, and its neighbourhood read for nothing.
        """
        index = np.sort(index)
        part = np.searchsorted(self.ends, index, side="right")
        for k, row in zip(part.tolist(), (index - self._firsts[part]).tolist(), strict=True):
            self.shards[k].call_in(name, row)


def _columns(shard: Shard) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {name: (e["dtype"], tuple(e["shape"][1:])) for name, e in shard.entries.items()}
