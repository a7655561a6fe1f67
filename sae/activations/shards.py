"""Shards of rows on disk: safetensors files that are written atomically and read through a memory map.

A shard holds named tensors with the same number of rows: activations ``[rows, d_in]`` with further columns (document,
position, token), or rows of tokens. Shards may differ in their number of rows, but not in names, widths or types.
"""

from __future__ import annotations

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

from sae.activations.block_sums import BLOCK, CheckedBlocks, block_sums
from sae.activations.file_map import map_file, request_bytes
from sae.activations.pace import Pace
from sae.numerics.atomic_write import write_tensors
from sae.numerics.memory import memory_of
from sae.numerics.safetensors_header import METADATA, SAFETENSORS_DTYPES, read_safetensors_header
from sae.numerics.seeds import HAS_NUMBA
from sae.registry import MissingFileError, UserError

_DTYPES = {name: SAFETENSORS_DTYPES[name] for name in ("F32", "BF16", "F16", "I64", "I32", "I8")}
# NumPy has no bfloat16, so rows are copied as unsigned integers of the same size and reinterpreted afterwards.
_WORDS = {4: np.uint32, 2: np.uint16, 8: np.uint64, 1: np.uint8}
MEMORY_SHARE = 0.5
"""The largest share of the machine's memory that shards may take to be expected to stay in the page cache."""
BYTES_PER_THREAD = 1 << 18
"""The fewest bytes that are worth starting a thread for."""
SUMS = "sums."
"""What begins the names of the tensors of a shard with the checksums of the others, see
:mod:`sae.activations.block_sums`; shards of earlier versions have none."""


def write_shard(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes one shard atomically, with the checksums of its blocks: a process that is killed leaves the whole file or
    none under its name."""
    assert len({len(t) for t in tensors.values()}) == 1, "the tensors of a shard have the same number of rows"
    on_cpu = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    sums = {SUMS + name: torch.from_numpy(block_sums(_bytes_of(t)).view(np.int64)) for name, t in on_cpu.items()}
    write_tensors(file, on_cpu | sums, temporary=file.with_name(file.name + ".partial"))


def checks_itself(file: Path) -> bool:
    """Whether a file is a shard with checksums, so that what is read of it is checked then."""
    try:
        return file.suffix == ".safetensors" and bool(Shard.open(file).sums)
    except UserError:
        return False


def _bytes_of(tensor: Tensor) -> NDArray[np.uint8]:
    return tensor.view(-1).view(torch.uint8).numpy()


@dataclass(frozen=True, eq=False)
class Shard:
    """One file of rows. Opening it reads only the header."""

    file: Path
    """The safetensors file."""
    start: int
    """The byte at which the tensors begin."""
    entries: Mapping[str, Mapping[str, Any]]
    """The header: type, shape and byte range of each tensor, by name."""
    sums: Mapping[str, Mapping[str, Any]]
    """The same of the checksums of each tensor, by the tensor's name; empty in a shard of an earlier version."""

    @classmethod
    def open(cls, file: Path) -> Shard:
        """Reads the header. Raises `MissingFileError` if there is no such file, `UserError` if it is damaged."""
        if not file.is_file():
            raise MissingFileError(f"{file}: this shard of activations is missing; prepare the source again")
        start, entries, sums = 0, dict[str, dict[str, Any]](), dict[str, dict[str, Any]]()
        try:
            start, entries = read_safetensors_header(file, str(file))
            entries.pop(METADATA, None)
            end = start + max(e["data_offsets"][1] for e in entries.values())
            sums = {name.removeprefix(SUMS): entries.pop(name) for name in list(entries) if name.startswith(SUMS)}
            [rows] = {e["shape"][0] for e in entries.values()}
            is_whole = end == file.stat().st_size and all(e["dtype"] in _DTYPES for e in entries.values())
            is_whole = is_whole and (not sums or all(_are_sums(sums.get(name), e) for name, e in entries.items()))
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):  # a UserError is a ValueError
            is_whole, rows = False, 0
        if not is_whole or rows < 0:
            raise UserError(f"{file}: this shard is cut short or damaged; delete it and prepare the source again")
        return cls(file, start, entries, sums)

    @property
    def n_rows(self) -> int:
        return next(iter(self.entries.values()))["shape"][0]

    @cached_property
    def _map(self) -> Any:
        return map_file(self.file)

    def words(self, name: str) -> NDArray[Any]:
        """The tensor as a memory map of unsigned integers ``[rows, ...]``; the operating system loads pages on use."""
        entry = self.entries[name]
        begin, end = entry["data_offsets"]
        word = _WORDS[_DTYPES[entry["dtype"]].itemsize]
        count = (end - begin) // np.dtype(word).itemsize
        words = np.frombuffer(self._map, word, count, self.start + begin).reshape(entry["shape"])
        words.flags.writeable = False
        return words

    def content(self, name: str) -> NDArray[np.uint8]:
        """The bytes of a tensor, as a memory map."""
        return self._mapped(self.entries[name])

    def block_sums(self, name: str) -> NDArray[np.uint64]:
        """The checksums of a tensor's blocks."""
        return self._mapped(self.sums[name]).view(np.uint64)

    def _mapped(self, entry: Mapping[str, Any]) -> NDArray[np.uint8]:
        begin, end = entry["data_offsets"]
        return np.frombuffer(self._map, np.uint8, end - begin, self.start + begin)

    def request(self, name: str, row: int) -> None:
        """Asks the operating system to load one row, without waiting for it."""
        entry = self.entries[name]
        size = (entry["data_offsets"][1] - entry["data_offsets"][0]) // self.n_rows
        request_bytes(self._map, self.start + entry["data_offsets"][0] + row * size, size)


class Shards:
    """All shards of a split as one table of ``n_rows`` rows. Raises `UserError` if their columns differ."""

    def __init__(self, files: Sequence[Path]) -> None:
        if not files:
            raise UserError("shards: no files are given; prepare the source again")
        self.shards = [Shard.open(file) for file in files]
        first = self.shards[0]
        for shard in self.shards[1:]:
            if _columns(shard) != _columns(first):
                raise UserError(
                    f"{shard.file}: its tensors differ from those of {first.file.name}; delete it and prepare the "
                    "source again"
                )
        self.ends = np.cumsum([s.n_rows for s in self.shards])
        self.n_rows = int(self.ends[-1])
        self._address_cache: dict[str, NDArray[np.uint64]] = {}
        self._checked = all(shard.sums for shard in self.shards)
        self._block_cache: dict[str, CheckedBlocks] = {}
        self._pace = Pace()

    @property
    def names(self) -> list[str]:
        """The names of the columns."""
        return sorted(self.shards[0].entries)

    def width(self, name: str = "acts") -> int:
        """The width of a column."""
        return self.shards[0].entries[name]["shape"][1]

    def rows(self, index: NDArray[np.int64], name: str = "acts", device: str = "cpu") -> Tensor:
        """The rows at `index`, in that order, on `device`; floating-point columns as float32.

        Rows are copied to the device in the type in which they are stored, and converted there. Raises `UserError`
        where one has been damaged since it was written.
        """
        entry = self.shards[0].entries[name]
        dtype, on_gpu = _DTYPES[entry["dtype"]], device.startswith("cuda")
        assert len(index) == 0 or (index.min() >= 0 and index.max() < self.n_rows), "no such row"
        rows = torch.empty((len(index), *entry["shape"][1:]), dtype=dtype, pin_memory=on_gpu)
        words = rows.view(torch.uint8).numpy().view(_WORDS[dtype.itemsize])
        if self._beyond_memory:
            self._request(index, name)
        self._refuse_damaged(index, name)
        if HAS_NUMBA:
            self._gather(np.ascontiguousarray(index, dtype=np.int64), name, words)
        else:
            self._by_numpy(index, name, words)
        rows = rows.to(device, non_blocking=on_gpu)
        return rows.float() if dtype.is_floating_point else rows

    def _gather(self, index: NDArray[np.int64], name: str, out: NDArray[Any]) -> None:
        """Copies the rows, in torch's number of threads if there is enough to copy and it is faster.

        Outside the main thread it uses one thread: threads that prefetch batches occupy the cores already, and not
        every threading layer of numba may be entered by two threads at once.
        """
        from sae.numerics.numba_loops import gather, gather_in_pieces

        start, out = self._addresses(name), out.reshape(len(index), math.prod(out.shape[1:]))
        pieces = min(torch.get_num_threads(), out.nbytes // BYTES_PER_THREAD)
        if pieces < 2 or threading.current_thread() is not threading.main_thread():
            gather(start, self.ends, index, out)
            return
        for untimed in self._pace.untried(pieces):  # compiles before the first measurement
            gather_in_pieces(start, self.ends, index[:0], out[:0], untimed)
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
        """The memory address of each shard's tensor, valid as long as the shards exist, which keep the maps open."""
        if name not in self._address_cache:
            self._address_cache[name] = np.array([s.words(name).ctypes.data for s in self.shards], dtype=np.uint64)
        return self._address_cache[name]

    def _refuse_damaged(self, index: NDArray[np.int64], name: str) -> None:
        """Compares the blocks in which the rows lie with their checksums, the first time that they are read."""
        if not self._checked:
            return
        if name not in self._block_cache:
            parts = [shard.content(name) for shard in self.shards]
            row_bytes = sum(map(len, parts)) // max(1, self.n_rows)
            self._block_cache[name] = CheckedBlocks(parts, [s.block_sums(name) for s in self.shards], row_bytes)
        part = np.searchsorted(self.ends, index, side="right")
        row = index - self._firsts[part]
        place = self._block_cache[name].first_damaged(part, row)
        if place is not None:
            file = self.shards[int(part[place])].file
            raise UserError(
                f"{file}: damaged since it was written, `{name}` of row {row[place]} differs from its checksum; delete "
                f"{file.parent} and prepare the source again"
            )

    @cached_property
    def _beyond_memory(self) -> bool:
        """Whether the shards are too large to stay in the page cache; False where the system takes no requests."""
        size = sum(shard.file.stat().st_size for shard in self.shards)
        return hasattr(mmap, "MADV_WILLNEED") and size > MEMORY_SHARE * memory_of("cpu")

    def _request(self, index: NDArray[np.int64], name: str) -> None:
        """Asks the operating system to load all rows, in their order on disk.

        Without it, each row would be waited for in turn, and neighbouring pages would be read in vain.
        """
        index = np.sort(index)
        part = np.searchsorted(self.ends, index, side="right")
        for k, row in zip(part.tolist(), (index - self._firsts[part]).tolist(), strict=True):
            self.shards[k].request(name, row)


def _are_sums(sums: Any, entry: Mapping[str, Any]) -> bool:
    """Whether an entry of a header is that of the checksums of another."""
    begin, end = entry["data_offsets"]
    n = -(-(end - begin) // BLOCK)
    return (
        sums["dtype"] == "I64" and sums["shape"] == [n] and sums["data_offsets"][1] - sums["data_offsets"][0] == 8 * n
    )


def _columns(shard: Shard) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {name: (e["dtype"], tuple(e["shape"][1:])) for name, e in shard.entries.items()}
