"""Tensors in files: told by name, type and shape, and read some rows at a time.

:func:`open_file` gives what a file holds as a tree of plain values, with a :class:`StoredTensor` in the place of each
tensor.
Which form a file has is told by its first bytes. Nothing in it is executed, whatever it is called; no tensor is read
before it is asked for; and no size that a file declares is believed before it is held against the file's own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sae.files.tensors import npz, safe, torch_file
from sae.files.tensors.tensor import NamedWeights, StoredTensor
from sae.registry import UserError

__all__ = ["NamedWeights", "StoredTensor", "open_file", "read_json"]

LONGEST_TEXT = 16 * 2**20
PICKLED = (".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt")


def open_file(file: Path, label: str | None = None) -> Any:
    """What a file of tensors holds; `label` names it in errors. A ``ValueError`` of one line where it is damaged, in a
    form that is not known, or asks for code to be run."""
    label, size = label or str(file), file.stat().st_size
    with file.open("rb") as f:
        start = f.read(512)
    if safe.is_safetensors(start, size):
        return safe.open_safetensors(file, label)
    if start[:4] == b"PK\x03\x04":
        return torch_file.open_zip(file, label) if torch_file.is_torch(file) else npz.open_npz(file, label)
    if start.startswith(b"version https://git-lfs"):
        raise UserError(f"{label}: a pointer of git-lfs, not the file itself; fetch it with `git lfs pull`")
    if start[257:262] == b"ustar":
        raise UserError(f"{label}: a tar archive of an old torch; load it there and save it again")
    if file.suffix == ".safetensors":
        return safe.open_safetensors(file, label)
    if start[:1] == b"\x80" or (file.suffix in PICKLED and start):
        return torch_file.open_pickle(file, label)
    if start[:2] == b"PK" or file.suffix == ".npz":
        raise UserError(f"{label}: not a whole zip archive")
    raise UserError(f"{label}: not a file of tensors in a form that can be read: safetensors, npz or torch's own")


def read_json(file: Path, label: str | None = None) -> dict[str, Any]:
    """The object in a JSON file; a ``ValueError`` of one line names the file."""
    label = label or str(file)
    if file.stat().st_size > LONGEST_TEXT:
        raise UserError(f"{label}: not readable as JSON: longer than {LONGEST_TEXT} bytes")
    try:
        found = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{label}: not readable as JSON: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(found, dict):
        raise UserError(f"{label}: not readable as JSON: an object is expected, not a {type(found).__name__}")
    return found
