"""safetensors files: eight bytes with the length of a JSON header, the header, and the numbers."""

from __future__ import annotations

import math
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Any

from sae.files.tensors.tensor import StoredTensor
from sae.numerics.safetensors_header import METADATA, SAFETENSORS_DTYPES, read_safetensors_header
from sae.registry import UserError


def is_safetensors(start: bytes, size: int) -> bool:
    """Whether a file of this size with these first bytes can be a safetensors file."""
    return len(start) > 8 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= size - 8


def open_safetensors(file: Path, label: str) -> dict[str, StoredTensor]:
    """The tensors of a file by name. Raises `UserError` where the header is damaged."""
    begin, header = read_safetensors_header(file, label)
    size = file.stat().st_size - begin
    return {name: _stored(file, label, name, entry, begin, size) for name, entry in header.items() if name != METADATA}


def _stored(file: Path, label: str, name: str, entry: Any, begin: int, size: int) -> StoredTensor:
    entry = entry if isinstance(entry, dict) else {}
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not (_are_lengths(shape) and _are_lengths(offsets) and len(offsets) == 2):
        raise UserError(f"{label}: not a complete safetensors file: {name[:80]} has no shape or offsets")
    if not isinstance(dtype, str) or dtype not in SAFETENSORS_DTYPES:
        raise UserError(f"{label}: {name[:80]} has the type {str(dtype)[:20]}, which is not supported")
    first, last = offsets
    if last > size or last - first != math.prod(shape) * SAFETENSORS_DTYPES[dtype].itemsize:
        raise UserError(
            f"{label}: not a complete safetensors file: {name[:80]} has offsets {first} to {last} of {size} bytes"
        )
    return StoredTensor(label, name, SAFETENSORS_DTYPES[dtype], tuple(shape), partial(open_at, file, begin + first))


def _are_lengths(numbers: Any) -> bool:
    """Whether this is a list of integers that can be lengths."""
    return isinstance(numbers, list) and len(numbers) < 9 and all(type(n) is int and 0 <= n < 2**48 for n in numbers)


def open_at(file: Path, offset: int) -> FileIO:
    """An unbuffered stream from an offset in a file; bytes are read directly into the caller's memory."""
    f = file.open("rb", buffering=0)
    f.seek(offset)
    return f
