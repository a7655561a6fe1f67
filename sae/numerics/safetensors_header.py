"""The header of a safetensors file: eight bytes with its length, and a JSON object with type, shape and place of each
tensor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from sae.registry import UserError

MAX_HEADER_BYTES = 16 * 2**20
METADATA = "__metadata__"
"""The entry of the header that is no tensor."""
SAFETENSORS_DTYPES = {
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


def read_safetensors_header(file: Path, label: str) -> tuple[int, dict[str, Any]]:
    """The byte at which the tensors begin, and the header. Raises `UserError`, with `label`, where it is damaged."""
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
