"""safetensors: eight bytes with the length of a JSON header, the header, and the numbers."""

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

LONGEST_HEADER = 16 * 2**20
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
    """Whether a file of this size may begin like this."""
    return len(start) > 8 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= size - 8


def open_safetensors(file: Path, label: str) -> dict[str, StoredTensor]:
    """Every tensor by its name."""
    begin, header = _header(file, label)
    size = file.stat().st_size - begin
    return {name: _stored(file, label, name, told, begin, size) for name, told in header.items() if name != METADATA}


METADATA = "__metadata__"


def _header(file: Path, label: str) -> tuple[int, dict[str, Any]]:
    with file.open("rb") as f:
        n = int.from_bytes(f.read(8), "little")
        if not 2 <= n <= min(LONGEST_HEADER, file.stat().st_size - 8):
            raise UserError(f"{label}: not a whole safetensors file: its header would be {n} bytes long")
        text = f.read(n)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise UserError(f"{label}: not a whole safetensors file: its header is no JSON object")
    return 8 + n, header


def _stored(file: Path, label: str, name: str, told: Any, begin: int, size: int) -> StoredTensor:
    told = told if isinstance(told, dict) else {}
    dtype, shape, place = told.get("dtype"), told.get("shape"), told.get("data_offsets")
    if not (_counts(shape) and _counts(place) and len(place) == 2):
        raise UserError(f"{label}: not a whole safetensors file: {name[:80]} has no shape or place")
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise UserError(f"{label}: {name[:80]} has the type {str(dtype)[:20]}, which cannot be read")
    first, last = place
    if last > size or last - first != math.prod(shape) * _DTYPES[dtype].itemsize:
        raise UserError(
            f"{label}: not a whole safetensors file: {name[:80]} would lie at {first} to {last} of {size} bytes"
        )
    return StoredTensor(label, name, _DTYPES[dtype], tuple(shape), partial(open_at, file, begin + first))


def _counts(numbers: Any) -> bool:
    """Whether this is a list of whole numbers that may be lengths."""
    return isinstance(numbers, list) and len(numbers) < 9 and all(type(n) is int and 0 <= n < 2**48 for n in numbers)


def open_at(file: Path, offset: int) -> FileIO:
    """A stream that begins at a place in a file. Without a buffer: what is read goes to where it is wanted."""
    f = file.open("rb", buffering=0)
    f.seek(offset)
    return f
