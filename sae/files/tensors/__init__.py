"""Reading tensors from files safely: names, types and shapes first, numbers in blocks.

:func:`open_file` returns the content of a file as plain values, with a :class:`StoredTensor` in place of each tensor.
The form of the file is recognised by its first bytes. Nothing in a file is executed, whatever its name; no tensor is
read before it is needed; and every size that a file declares is checked against the size of the file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sae.files.tensors import npz, safe, torch_file
from sae.files.tensors.tensor import NamedWeights, StoredTensor
from sae.registry import UserError

__all__ = ["NamedWeights", "StoredTensor", "open_file", "read_json"]

MAX_JSON_BYTES = 16 * 2**20
PICKLE_SUFFIXES = (".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt")


def open_file(file: Path, label: str | None = None) -> Any:
    """The content of a file of tensors; `label` names the file in errors. Raises `UserError` where the file is damaged,
    has no supported form, or asks for code to be run."""
    label, size = label or str(file), file.stat().st_size
    with file.open("rb") as f:
        start = f.read(512)
    if safe.is_safetensors(start, size):
        return safe.open_safetensors(file, label)
    if start[:4] == b"PK\x03\x04":
        return torch_file.open_zip(file, label) if torch_file.is_torch(file) else npz.open_npz(file, label)
    if start.startswith(b"version https://git-lfs"):
        raise UserError(f"{label}: a git-lfs pointer instead of the file; run `git lfs pull`")
    if start[257:262] == b"ustar":
        raise UserError(f"{label}: a tar archive of an old torch version; load it there and save it again")
    if file.suffix == ".safetensors":
        return safe.open_safetensors(file, label)
    if start[:1] == b"\x80" or (file.suffix in PICKLE_SUFFIXES and start):
        return torch_file.open_pickle(file, label)
    if start[:2] == b"PK" or file.suffix == ".npz":
        raise UserError(f"{label}: not a complete zip archive; copy or download it again")
    raise UserError(f"{label}: not a file of tensors in a supported form (safetensors, npz, torch)")


def read_json(file: Path, label: str | None = None) -> dict[str, Any]:
    """The object in a JSON file. Raises `UserError` that names the file where it is not readable."""
    label = label or str(file)
    if file.stat().st_size > MAX_JSON_BYTES:
        raise UserError(f"{label}: not readable as JSON: longer than {MAX_JSON_BYTES} bytes")
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{label}: not readable as JSON: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(content, dict):
        raise UserError(f"{label}: not readable as JSON: an object is expected, not a {type(content).__name__}")
    return content
