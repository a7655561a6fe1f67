"""The native format: a folder with ``dictionary.json`` and ``dictionary.safetensors``.

The JSON holds the version of the format, the kind, its settings and the card; the tensors are those of the dictionary
class, by name, in raw units. Nothing in either file can execute.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

import torch
from safetensors import safe_open
from torch import Tensor

from sae.dictionary import Dictionary
from sae.files.tensors import read_json
from sae.files.tensors.safe import open_safetensors
from sae.numerics.atomic_write import write_atomically
from sae.numerics.card import upgraded
from sae.numerics.tensor_fields import tensor_axes
from sae.registry import UserError, kinds, unknown
from sae.training.config import TrainConfig

FORMAT = 1
HEADER = "dictionary.json"
WEIGHTS = "dictionary.safetensors"
RENAMED_KINDS = {"lasso": "fista"}
"""Old names of kinds in files of earlier versions, with the present names."""
_TRAINING = frozenset(TrainConfig.model_fields)


def save_native(d: Dictionary, path: Path) -> None:
    """Writes the folder; each file is written atomically, the header last. Raises `UserError` for settings that could
    not be loaded again."""
    settings = d.settings()
    try:
        type(d).checked(settings)
    except UserError as error:
        raise UserError(
            f"{type(d).__name__}.settings(): {error}, so the file could not be loaded again; give each setting a field "
            "with a default of its type, and numbers that are finite and at least 0"
        ) from None
    header = {"format": FORMAT, "kind": d.kind, "settings": settings, "card": d.card}
    save_tensors(d.tensors(), path / WEIGHTS, dtype=None)
    write_atomically(path / HEADER, (json.dumps(header, indent=1, sort_keys=True) + "\n").encode())


def save_tensors(tensors: Mapping[str, Tensor], file: Path, dtype: torch.dtype | None = torch.float32) -> None:
    """Writes a safetensors file atomically, as `dtype` (None: as the tensors are). The tensors are copied, because
    safetensors refuses tensors that share memory, such as tied ones."""
    from safetensors.torch import save

    file.parent.mkdir(parents=True, exist_ok=True)
    copied = {n: t.detach().to("cpu", dtype).clone(memory_format=torch.contiguous_format) for n, t in tensors.items()}
    write_atomically(file, save(copied))


def load_native(header_file: Path, weights_file: Path) -> Dictionary:
    """Reads the two files. Raises `UserError` that names the damaged file."""
    header = read_header(header_file)
    tensors = read_tensors(weights_file, finite=True)
    kind = RENAMED_KINDS.get(str(header["kind"]), str(header["kind"]))
    modules = kinds("dictionaries") | kinds("encoders") | kinds("baselines")
    known = {name: module.KIND for name, module in modules.items() if hasattr(module, "KIND")}
    if kind not in known:
        raise UserError(
            f"{header_file}: {unknown(kind[:60], known, 'kind of dictionary')}; a kind of your own is known after "
            "--plugin FILE, or in Python after sae.load_plugin(FILE)"
        )
    cls: type[Dictionary] = known[kind]
    check_shapes(tensors, weights_file, cls)
    try:
        return cls(**tensors, **cls.checked(header["settings"]), card=upgraded(header["card"], _TRAINING))
    except (TypeError, UserError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{weights_file.parent}: tensors or settings do not fit a {kind!r} dictionary: {reason}"
        ) from None


@dataclass(frozen=True)
class StoredDictionary:
    """What the headers of a dictionary in the native format say, without its weights."""

    folder: Path
    """Its folder."""
    cls: type[Dictionary]
    """Its class."""
    settings: Mapping[str, Any]
    """Its settings."""
    n_latents: int
    """The number of its latents."""
    weights_bytes: int
    """The bytes of its tensors."""

    def load_part(self, latents: range) -> Dictionary:
        """The dictionary of some of the latents; the weights of others are not read.

        It encodes candidates where a code depends on the other latents (TopK).
        """
        axes, tensors, kept = tensor_axes(self.cls), dict[str, Tensor](), slice(latents.start, latents.stop)
        with safe_open(self.folder / WEIGHTS, "pt") as f:
            for name in f.keys():  # noqa: SIM118 (not a mapping)
                own = tuple(kept if axis == "n_latents" else slice(None) for axis in axes[name])
                tensors[name] = f.get_slice(name)[own].clone()
        settings = dict(self.settings)
        if "k" in settings:
            settings["k"] = min(settings["k"], len(latents))
        return self.cls(**tensors, **settings)


def stored_dictionary(folder: Path) -> StoredDictionary | None:
    """The dictionary in a folder, or in its folder ``dictionary``; None where there is none in the native format, or
    one that is read by another encoder."""
    inside = folder if (folder / HEADER).is_file() else folder / "dictionary"
    if not (inside / HEADER).is_file():
        return None
    header = read_header(inside / HEADER)
    module = kinds("dictionaries").get(header["kind"])
    cls: type[Dictionary] | None = getattr(module, "KIND", None)
    if cls is None:
        return None
    with safe_open(inside / WEIGHTS, "pt") as f:
        [n_latents, *_] = f.get_slice("W_dec").get_shape()
    size = (inside / WEIGHTS).stat().st_size
    return StoredDictionary(inside, cls, cls.checked(header["settings"]), n_latents, size)


def read_header(file: Path) -> dict[str, Any]:
    """The content of ``dictionary.json``. Raises `UserError` where a key is missing or the version is not supported."""
    header = read_json(file)
    missing = {"format", "kind", "settings", "card"} - set(header)
    if missing:
        raise UserError(f"{file}: the key {sorted(missing)[0]!r} is missing")
    if header["format"] != FORMAT:
        raise UserError(
            f"{file}: format = {header['format']!r}: only {FORMAT} is supported; save it again with this version of sae"
        )
    if not (isinstance(header["settings"], dict) and isinstance(header["card"], dict)):
        raise UserError(f"{file}: settings and card must be JSON objects")
    return header


def read_tensors(file: Path, finite: bool = False) -> dict[str, Tensor]:
    """Every tensor of a safetensors file, read into separate memory: the position of a tensor in a file would change
    its alignment, and with it the last bits of matrix products. Tensors are read one after the other, to save memory.
    """
    return {name: t.read(dtype=None, finite=finite) for name, t in open_safetensors(file, str(file)).items()}


def check_shapes(tensors: dict[str, Tensor], file: Path, cls: type[Dictionary]) -> None:
    """Raises `UserError` where a tensor is missing or its shape is not the one that the class declares."""
    lengths: dict[str, int] = {}
    hints, declared = get_type_hints(cls), tensor_axes(cls)
    for name in sorted((f.name for f in fields(cls)), key=lambda name: name != "W_dec"):  # it sets the lengths of axes
        axes = declared.get(name)
        if axes is None:
            continue
        if name not in tensors:
            if NoneType in get_args(hints[name]):
                continue
            raise UserError(f"{file}: the tensor {name} is missing")
        shape = tuple(tensors[name].shape)
        axes = [("d_out" if axis == "d_in" and cls.kind != "transcoder" else axis) for axis in axes]
        if len(axes) == len(shape) and 0 not in shape:
            lengths = dict(zip(axes, shape, strict=True)) | lengths
        expected = tuple(lengths.get(axis, axis) for axis in axes)
        if shape != expected:
            raise UserError(f"{file}: {name} has shape {shape}; {expected} is expected")
