"""safetensors files: eight bytes with the length of a JSON header, the header, and the numbers."""

from __future__ import annotations

import json
import math
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Any

import torch

from sae.files.tensors.tensor import StoredTensor
from sae.registry import UserError

MAX_HEADER_BYTES = 16 * 2**20
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def is_safetensors(start: bytes, size: int) -> bool:
    """Whether a file of this size with these first bytes can be a safetensors file."""
    return len(start) > 8 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= size - 8


def open_safetensors(file: Path, label: str) -> dict[str, StoredTensor]:
    """The tensors of a file by name. Raises `UserError` where the header is damaged."""
    begin, header = _header(file, label)
    size = file.stat().st_size - begin
    return {name: _stored(file, label, name, entry, begin, size) for name, entry in header.items() if name != METADATA}


METADATA = "__metadata__"


def _header(file: Path, label: str) -> tuple[int, dict[str, Any]]:
    with file.open("rb") as f:
        n = int.from_bytes(f.read(8), "little")
        if not 2 <= n <= min(MAX_HEADER_BYTES, file.stat().st_size - 8):
            raise UserError(f"{label}: not a complete safetensors file: its header would be {n} bytes long")
        text = f.read(n)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise UserError(f"{label}: not a complete safetensors file: its header is not a JSON object")
    return 8 + n, header


def _stored(file: Path, label: str, name: str, entry: Any, begin: int, size: int) -> StoredTensor:
    entry = entry if isinstance(entry, dict) else {}
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not (_are_lengths(shape) and _are_lengths(offsets) and len(offsets) == 2):
        raise UserError(f"{label}: not a complete safetensors file: {name[:80]} has no shape or offsets")
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise UserError(f"{label}: {name[:80]} has the type {str(dtype)[:20]}, which is not supported")
    first, last = offsets
    if last > size or last - first != math.prod(shape) * _DTYPES[dtype].itemsize:
        raise UserError(
            f"{label}: not a complete safetensors file: {name[:80]} has offsets {first} to {last} of {size} bytes"
        )
    return StoredTensor(label, name, _DTYPES[dtype], tuple(shape), partial(open_at, file, begin + first))


def _are_lengths(numbers: Any) -> bool:
    """Whether this is a list of integers that can be lengths."""
    return isinstance(numbers, list) and len(numbers) < 9 and all(type(n) is int and 0 <= n < 2**48 for n in numbers)


def open_at(file: Path, offset: int) -> FileIO:
    """An unbuffered stream from an offset in a file; bytes are read directly into the caller's memory."""
    f = file.open("rb", buffering=0)
    f.seek(offset)
    return f
