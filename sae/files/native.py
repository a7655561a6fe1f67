"""The native form of a dictionary: a folder with ``dictionary.json`` and ``dictionary.safetensors``.

The JSON holds the format's version, the kind, its settings and the card; the tensors are those of the
dictionary class, by name, in raw units. Nothing in either file can execute.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae.dictionary import Dictionary
from sae.kinds import kinds, unknown

FORMAT = 1
HEADER = "dictionary.json"
WEIGHTS = "dictionary.safetensors"
RENAMED = {"lasso": "fista"}
"""Kinds that files of earlier versions name otherwise."""


def is_native(path: Path) -> bool:
    """Whether a folder looks like the native form."""
    return (path / HEADER).is_file()


def save_native(d: Dictionary, path: Path) -> None:
    """Writes the folder; each file appears whole or not at all, the header last."""
    from safetensors.torch import save

    path.mkdir(parents=True, exist_ok=True)
    header = {"format": FORMAT, "kind": d.kind, "settings": d.settings(), "card": d.card}
    # Copied, because safetensors refuses tensors that share memory, as tied ones do in a single dimension.
    tensors = {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in d.tensors().items()}
    write_whole(path / WEIGHTS, save(tensors))
    write_whole(path / HEADER, (json.dumps(header, indent=1, sort_keys=True) + "\n").encode())


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file through a temporary name, so that a reader never sees half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as f:
        f.write(content)
        f.flush()
        os.fsync(f.fileno())
    temporary.replace(path)


def load_native(path: Path) -> Dictionary:
    """Reads the folder; a ``ValueError`` of one line names the file and what is wrong with it."""
    header = read_header(path / HEADER)
    tensors = read_tensors(path / WEIGHTS)
    kind = RENAMED.get(header["kind"], header["kind"])
    known = {
        name: m.KIND for name, m in (kinds("sae.dictionaries") | kinds("sae.encoders")).items() if hasattr(m, "KIND")
    }
    if kind not in known:
        raise ValueError(f"{path / HEADER}: {unknown(str(kind), known, 'kind of dictionary')}")
    cls: type[Dictionary] = known[kind]
    check_shapes(tensors, path / WEIGHTS)
    try:
        return cls(**tensors, **header["settings"], card=header["card"])
    except TypeError as error:
        raise ValueError(f"{path}: tensors or settings do not fit a {kind!r} dictionary: {error}") from None


def read_header(file: Path) -> dict[str, Any]:
    try:
        header = json.loads(file.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: not readable as JSON: {error}") from None
    missing = {"format", "kind", "settings", "card"} - set(header)
    if missing:
        raise ValueError(f"{file}: the key {sorted(missing)[0]!r} is missing")
    if header["format"] != FORMAT:
        raise ValueError(f"{file}: format {header['format']!r} is not {FORMAT}: written by another version of sae?")
    return header


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Every tensor of a safetensors file, in memory of its own: where a tensor happens to lie in a file changes
    its alignment, and with it the last bits of a matrix product."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return {name: tensor.clone() for name, tensor in load_file(file).items()}
    except SafetensorError as error:
        raise ValueError(f"{file}: not a whole safetensors file: {error}") from None


def check_shapes(tensors: dict[str, Tensor], file: Path) -> None:
    """Refuses missing tensors and shapes that do not go together."""
    for name in ("W_enc", "W_dec", "b_enc", "b_dec"):
        if name not in tensors:
            raise ValueError(f"{file}: the tensor {name} is missing")
    n_latents, d_in = tensors["W_dec"].shape
    expected = {"W_enc": (d_in, n_latents), "b_enc": (n_latents,), "b_dec": (d_in,)}
    for name, shape in expected.items():
        if tuple(tensors[name].shape) != shape:
            raise ValueError(f"{file}: {name} has shape {tuple(tensors[name].shape)}, {shape} expected")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{file}: {name} holds NaN or infinite values")
