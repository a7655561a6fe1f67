"""Shards of rows on disk: safetensors files that are written whole or not at all, and read through a memory map.

A shard holds named tensors with the same number of rows: activations ``[rows, d_in]`` with side columns (document,
position, token), or rows of tokens. Shards may differ in their number of rows, never in names, widths or types.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

DTYPES = {
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I8": torch.int8,
}
# NumPy has no bfloat16; rows are moved as plain words of the right size and named for what they are afterwards.
WORDS = {4: np.uint32, 2: np.uint16, 8: np.uint64, 1: np.uint8}


def write_shard(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes one shard: a kill at any moment leaves either the whole file or none under its name."""
    from safetensors.torch import save_file

    assert len({len(t) for t in tensors.values()}) == 1, "the tensors of a shard have the same number of rows"
    partial = file.with_name(file.name + ".partial")
    save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, partial)
    with partial.open("rb+") as written:
        os.fsync(written.fileno())
    os.replace(partial, file)


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
            raise FileNotFoundError(f"{file}: this shard of activations is missing; prepare the source again")
        with file.open("rb") as f:
            length = int.from_bytes(f.read(8), "little")
            header = f.read(min(length, file.stat().st_size))
        entries: dict[str, dict[str, Any]] = {}
        try:
            entries = json.loads(header)
            entries.pop("__metadata__", None)
            end = 8 + length + max(e["data_offsets"][1] for e in entries.values())
            [rows] = {e["shape"][0] for e in entries.values()}
            whole = end == file.stat().st_size and all(e["dtype"] in DTYPES for e in entries.values())
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            whole, rows = False, 0
        if not whole or rows < 0:
            raise ValueError(f"{file}: this shard is cut short or damaged; delete it and prepare the source again")
        return cls(file, 8 + length, entries)

    @property
    def n_rows(self) -> int:
        return next(iter(self.entries.values()))["shape"][0]

    @cached_property
    def _map(self) -> NDArray[np.uint8]:
        return np.memmap(self.file, dtype=np.uint8, mode="r")

    def words(self, name: str) -> NDArray[Any]:
        """The tensor as a memory map of words ``[rows, ...]``; the operating system loads the pages touched."""
        entry = self.entries[name]
        begin, end = entry["data_offsets"]
        word = WORDS[DTYPES[entry["dtype"]].itemsize]
        return self._map[self.start + begin : self.start + end].view(word).reshape(entry["shape"])


class Shards:
    """All shards of a split as one table of ``n_rows`` rows."""

    def __init__(self, files: Sequence[Path]) -> None:
        if not files:
            raise ValueError("no shards were given")
        self.shards = [Shard.open(file) for file in files]
        first = self.shards[0]
        for shard in self.shards[1:]:
            if _columns(shard) != _columns(first):
                raise ValueError(f"{shard.file}: it holds other tensors than {first.file.name}; prepare it again")
        self.ends = np.cumsum([s.n_rows for s in self.shards])
        self.n_rows = int(self.ends[-1])

    @property
    def names(self) -> list[str]:
        return sorted(self.shards[0].entries)

    def width(self, name: str = "acts") -> int:
        return self.shards[0].entries[name]["shape"][1]

    def rows(self, index: NDArray[np.int64], name: str = "acts", device: str = "cpu") -> Tensor:
        """The rows asked for, in the order asked for, on `device`; floating-point ones as float32.

        Each shard is visited once and in ascending order, so that the disk sees a sweep; rows travel to the
        device in the type they are stored in, and are widened there.
        """
        entry = self.shards[0].entries[name]
        dtype = DTYPES[entry["dtype"]]
        out = np.empty((len(index), *entry["shape"][1:]), dtype=WORDS[dtype.itemsize])
        order = np.argsort(index, kind="stable")
        sorted_index = index[order]
        assert len(index) == 0 or (sorted_index[0] >= 0 and sorted_index[-1] < self.n_rows), "no such row"
        cuts = np.searchsorted(sorted_index, self.ends)
        begin = 0
        for shard, end, first in zip(self.shards, cuts, self.ends - [s.n_rows for s in self.shards], strict=True):
            if end > begin:
                out[order[begin:end]] = shard.words(name)[sorted_index[begin:end] - first]
            begin = end
        rows = torch.from_numpy(out).view(dtype)
        if device != "cpu":
            rows = (rows.pin_memory() if device.startswith("cuda") else rows).to(device, non_blocking=True)
        return rows.float() if dtype.is_floating_point else rows


def _columns(shard: Shard) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {name: (e["dtype"], tuple(e["shape"][1:])) for name, e in shard.entries.items()}
