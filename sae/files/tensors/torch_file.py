"""Files of ``torch.save``: a pickle of references next to the numbers, in a zip archive or, before torch 1.6, one after
the other. Plain pickles that hold tensors are read as well.

torch's own weights-only loader would refuse the same code; this one also leaves the numbers in the file until they are
needed, and reads objects of a few classes that it knows by name (:mod:`sae.files.tensors.records`).
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from sae.files.tensors.npz import zip_errors
from sae.files.tensors.records import GlobalName, PickledObject, read_pickle
from sae.files.tensors.safe import open_at
from sae.files.tensors.tensor import UNNAMED, ByteStream, StoredTensor
from sae.files.tensors.window import Window
from sae.registry import UserError

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
"""First value in files of torch before 1.6."""
MAX_PICKLE_BYTES = 64 * 2**20
STORAGES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
}
_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in STORAGES.values()} | {
    "half": torch.float16,
    "float": torch.float32,
    "double": torch.float64,
    "long": torch.int64,
    "int": torch.int32,
}
REBUILD_TENSOR = {"_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"}
REBUILD_PARAMETER = {"_rebuild_parameter", "_rebuild_parameter_with_state"}
TORCH_NAMES = {
    "torch": {*(f"{s}Storage" for s in STORAGES), *_DTYPES, "Size", "device", "Tensor"},
    "torch._utils": REBUILD_TENSOR | REBUILD_PARAMETER,
    "torch.storage": {"TypedStorage", "UntypedStorage", "_load_from_bytes"},
    "torch.nn.parameter": {"Parameter"},
    "torch._tensor": {"_rebuild_from_type_v2"},
}
SPARSE_CODING_PACKAGE = "autoencoders."
"""Start of the module names of sparse_coding's classes."""


@dataclass(eq=False)
class Storage:
    """Numbers that tensors are views of."""

    dtype: torch.dtype | None
    """Type of the numbers; None for untyped bytes."""
    n_bytes: int
    """Size in bytes."""
    open: Callable[[int], ByteStream]
    """Opens a stream from a byte offset."""


@dataclass(eq=False)
class _Storages:
    """Finds the storages of a file and builds tensors on them."""

    label: str
    """What the file is called in errors."""
    find: Callable[[str, int], Storage]
    """The storage with a key and a size in bytes."""

    def persistent(self, reference: Any) -> Storage:
        if not (isinstance(reference, tuple) and len(reference) >= 5 and reference[0] == "storage"):
            raise UserError("a reference that is not a storage")
        _, kind, key, _, n = reference[:5]
        dtype = _dtype(kind)
        if type(n) is not int or n < 0:
            raise UserError("a storage without a size")
        storage = self.find(str(key), n * (1 if dtype is None else dtype.itemsize))
        return Storage(dtype, storage.n_bytes, storage.open)

    def build(self, what: GlobalName, arguments: tuple[Any, ...]) -> Any:
        if what.module == "torch._utils" and what.name in REBUILD_TENSOR:
            return self.tensor(*arguments[:4], dtype=_dtype(arguments[6]) if what.name.endswith("v3") else None)
        if what.module == "torch._utils" and what.name in REBUILD_PARAMETER:
            return arguments[0]
        if what == GlobalName("torch._tensor", "_rebuild_from_type_v2") and isinstance(arguments[0], GlobalName):
            return self.build(arguments[0], arguments[2])
        if what == GlobalName("torch.storage", "_load_from_bytes") and isinstance(arguments[0], bytes):
            inner = arguments[0]
            content = _legacy(Window(io.BytesIO(inner), len(inner)), self.label, lambda at: _bytes_at(inner, at))
            return content if isinstance(content, Storage) else PickledObject(what)
        return PickledObject(what, arguments)

    def tensor(self, storage: Any, offset: Any, shape: Any, strides: Any, dtype: torch.dtype | None) -> StoredTensor:
        """A view of a storage; one that is not contiguous is refused only when it is read."""
        if not (isinstance(storage, Storage) and isinstance(shape, tuple) and isinstance(strides, tuple)):
            raise UserError("a tensor without numbers or shape")
        sizes = (offset, *shape, *strides)
        kind = dtype or storage.dtype
        if kind is None or len(shape) != len(strides) or len(shape) > 8:
            raise UserError("a tensor without type or shape")
        if not all(type(n) is int and 0 <= n < 2**48 for n in sizes):
            raise UserError("a tensor with lengths out of bounds")
        shape, begin, size = tuple(shape), offset * kind.itemsize, math.prod(shape) * kind.itemsize
        column_major = (
            len(shape) == 2 and not _is_row_major(shape, strides) and _is_row_major(shape[::-1], strides[::-1])
        )
        if not (column_major or _is_row_major(shape, strides)):
            return StoredTensor(self.label, UNNAMED, kind, shape, partial(_refuse_strided, self.label))
        if begin + size > storage.n_bytes:
            raise UserError(f"a tensor of {size} bytes in a storage of {storage.n_bytes}")
        return StoredTensor(self.label, UNNAMED, kind, shape, partial(storage.open, begin), column_major)


def is_torch(file: Path) -> bool:
    """Whether a zip archive is a file of torch, by the names of its members."""
    with zip_errors(str(file)), zipfile.ZipFile(file) as archive:
        return any(name == "data.pkl" or name.endswith("/data.pkl") for name in archive.namelist())


def open_zip(file: Path, label: str) -> Any:
    """The content of a file of torch 1.6 or later."""
    with zip_errors(label), zipfile.ZipFile(file) as archive:
        members = {member.filename: member for member in archive.infolist()}
        name = min((name for name in members if name == "data.pkl" or name.endswith("/data.pkl")), key=len)
        folder, size = name.removesuffix("data.pkl"), file.stat().st_size
        order = members.get(f"{folder}byteorder")
        if members[name].file_size > min(MAX_PICKLE_BYTES, size):
            raise UserError(f"{label}: its pickle would be {members[name].file_size} bytes long")
        if order is not None and archive.read(order.filename)[:3] == b"big":
            raise UserError(f"{label}: written on a big-endian machine; save it again on a little-endian one")
        text = archive.read(name)

    def find(key: str, n_bytes: int) -> Storage:
        member = members[f"{folder}data/{key}"]
        begin = _begin(file, member)
        if member.compress_type != zipfile.ZIP_STORED or n_bytes > member.file_size or begin + n_bytes > size:
            raise UserError(f"storage {key} of {n_bytes} bytes is missing")
        return Storage(None, n_bytes, lambda at: open_at(file, begin + at))

    return _read(Window(io.BytesIO(text), len(text)), _Storages(label, find))


def _begin(file: Path, member: zipfile.ZipInfo) -> int:
    """Offset of the first byte of a member."""
    if member.header_offset < 0:
        raise UserError("a member lies outside the file")
    with open_at(file, member.header_offset) as f:
        head = f.read(30)
    if len(head) != 30 or head[:4] != b"PK\x03\x04":
        raise UserError(f"{member.filename[:60]} is not at its offset")
    name, extra = struct.unpack("<HH", head[26:30])
    return member.header_offset + 30 + name + extra


def open_pickle(file: Path, label: str) -> Any:
    """The content of a file of torch before 1.6, or of a plain pickle."""
    with file.open("rb") as f:
        return _legacy(Window(f, file.stat().st_size), label, partial(open_at, file))


def _legacy(stream: Window, label: str, open_from: Callable[[int], ByteStream]) -> Any:
    """The content of a file of torch before 1.6: a magic number, a version, facts about the machine, the object, the
    keys of its storages, and their numbers. Other pickles are returned as they are."""
    places: dict[str, int] = {}
    sizes: dict[str, int] = {}

    def find(key: str, n_bytes: int) -> Storage:
        sizes[key] = n_bytes
        return Storage(None, n_bytes, lambda at: open_from(places[key] + at))

    storages = _Storages(label, find)
    content = _read(stream, storages)
    if content != LEGACY_MAGIC:
        return content
    _read(stream, storages)
    machine = _read(stream, storages)
    if isinstance(machine, dict) and machine.get("little_endian") is False:
        raise UserError(f"{label}: written on a big-endian machine; save it again on a little-endian one")
    content, keys = _read(stream, storages), _read(stream, storages)
    for key in keys if isinstance(keys, list) else ():
        stream.read(8)
        places[str(key)] = stream.tell()
        if (size := sizes.get(str(key), 0)) > stream.left:
            raise UserError(f"{label}: the file ends before the end of its numbers; copy or download it again")
        stream.skip(size)
    if missing := sizes.keys() - places.keys():
        raise UserError(f"{label}: the numbers of storage {sorted(missing)[0][:40]} are missing")
    return content


def _read(stream: Window, storages: _Storages) -> Any:
    return read_pickle(stream, storages.label, _known, storages.build, storages.persistent)


def _known(name: GlobalName) -> bool:
    return name.name in TORCH_NAMES.get(name.module, ()) or name.module.startswith(SPARSE_CODING_PACKAGE)


def _dtype(kind: Any) -> torch.dtype | None:
    """The type of a storage, from the name of its class; None for untyped bytes."""
    if not isinstance(kind, GlobalName):
        raise UserError("a type without a name")
    if kind.name == "UntypedStorage":
        return None
    return STORAGES[kind.name.removesuffix("Storage")] if kind.name.endswith("Storage") else _DTYPES[kind.name]


def _is_row_major(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether the numbers are stored row by row, without gaps."""
    step = 1
    for n, stride in zip(reversed(shape), reversed(strides), strict=True):
        if n != 1 and stride != step:
            return False
        step *= n
    return True


def _refuse_strided(label: str) -> ByteStream:
    raise UserError(f"{label}: a tensor is not contiguous; save it again after .contiguous()")


def _bytes_at(content: bytes, at: int) -> ByteStream:
    f = io.BytesIO(content)
    f.seek(at)
    return f
