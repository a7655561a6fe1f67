"""What ``torch.save`` writes: a pickle of references and the numbers beside it, in a zip archive or, before 1.6, one
after the other. Plain pickles that hold tensors are read as well.

Torch's own weights-only loader would refuse the same code; this one also leaves the numbers in the file until they are
asked for, and reads objects of classes that it knows by name (:mod:`sae.files.tensors.records`).
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

from sae.files.tensors.npz import damage_is_told
from sae.files.tensors.records import Name, PickledObject, read_pickle
from sae.files.tensors.safe import open_at
from sae.files.tensors.tensor import NAMELESS, StoredTensor
from sae.files.tensors.tensor import NumberFormat as Bytes
from sae.files.tensors.window import Window
from sae.registry import UserError

LEGACY = 0x1950A86A20F9469CFC6C
LONGEST_PICKLE = 64 * 2**20
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
REBUILT = {"_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"}
PARAMETERS = {"_rebuild_parameter", "_rebuild_parameter_with_state"}
OF_TORCH = {
    "torch": {*(f"{s}Storage" for s in STORAGES), *_DTYPES, "Size", "device", "Tensor"},
    "torch._utils": REBUILT | PARAMETERS,
    "torch.storage": {"TypedStorage", "UntypedStorage", "_load_from_bytes"},
    "torch.nn.parameter": {"Parameter"},
    "torch._tensor": {"_rebuild_from_type_v2"},
}
FOREIGN = "autoencoders."
"""The package of sparse_coding's classes."""


@dataclass(eq=False)
class Storage:
    """Numbers that tensors are views of: `open` gives a stream from a byte of them on."""

    dtype: torch.dtype | None
    n_bytes: int
    open: Callable[[int], Bytes]


@dataclass(eq=False)
class _Numbers:
    """Where the storages of a file are, as far as is known."""

    label: str
    find: Callable[[str, int], Storage]
    """The storage of a key with so many bytes."""

    def persistent(self, reference: Any) -> Storage:
        if not (isinstance(reference, tuple) and len(reference) >= 5 and reference[0] == "storage"):
            raise UserError("a reference to what is no storage")
        _, kind, key, _, n = reference[:5]
        dtype = _dtype(kind)
        if type(n) is not int or n < 0:
            raise UserError("a storage of no size")
        storage = self.find(str(key), n * (1 if dtype is None else dtype.itemsize))
        return Storage(dtype, storage.n_bytes, storage.open)

    def build(self, what: Name, arguments: tuple[Any, ...]) -> Any:
        if what.module == "torch._utils" and what.name in REBUILT:
            return self.tensor(*arguments[:4], dtype=_dtype(arguments[6]) if what.name.endswith("v3") else None)
        if what.module == "torch._utils" and what.name in PARAMETERS:
            return arguments[0]
        if what == Name("torch._tensor", "_rebuild_from_type_v2") and isinstance(arguments[0], Name):
            return self.build(arguments[0], arguments[2])
        if what == Name("torch.storage", "_load_from_bytes") and isinstance(arguments[0], bytes):
            inside = arguments[0]
            found = _legacy(Window(io.BytesIO(inside), len(inside)), self.label, lambda at: _inside(inside, at))
            return found if isinstance(found, Storage) else PickledObject(what)
        return PickledObject(what, arguments)

    def tensor(self, storage: Any, offset: Any, shape: Any, strides: Any, dtype: torch.dtype | None) -> StoredTensor:
        """A view of a storage; one that does not lie in one piece is told only where it is asked for."""
        if not (isinstance(storage, Storage) and isinstance(shape, tuple) and isinstance(strides, tuple)):
            raise UserError("a tensor without numbers or shape")
        sizes = (offset, *shape, *strides)
        kind = dtype or storage.dtype
        if kind is None or len(shape) != len(strides) or len(shape) > 8:
            raise UserError("a tensor of no type or shape")
        if not all(type(n) is int and 0 <= n < 2**48 for n in sizes):
            raise UserError("a tensor with lengths out of bounds")
        shape, begin, size = tuple(shape), offset * kind.itemsize, math.prod(shape) * kind.itemsize
        by_columns = len(shape) == 2 and not _in_rows(shape, strides) and _in_rows(shape[::-1], strides[::-1])
        if not (by_columns or _in_rows(shape, strides)):
            return StoredTensor(self.label, NAMELESS, kind, shape, partial(_scattered, self.label))
        if begin + size > storage.n_bytes:
            raise UserError(f"a tensor of {size} bytes in a storage of {storage.n_bytes}")
        return StoredTensor(self.label, NAMELESS, kind, shape, partial(storage.open, begin), by_columns)


def is_torch(file: Path) -> bool:
    """Whether a zip archive is torch's, by what is in it."""
    with damage_is_told(str(file)), zipfile.ZipFile(file) as archive:
        return any(name == "data.pkl" or name.endswith("/data.pkl") for name in archive.namelist())


def open_zip(file: Path, label: str) -> Any:
    """What is in a file of torch 1.6 and later."""
    with damage_is_told(label), zipfile.ZipFile(file) as archive:
        members = {member.filename: member for member in archive.infolist()}
        name = min((name for name in members if name == "data.pkl" or name.endswith("/data.pkl")), key=len)
        folder, size = name.removesuffix("data.pkl"), file.stat().st_size
        order = members.get(f"{folder}byteorder")
        if members[name].file_size > min(LONGEST_PICKLE, size):
            raise UserError(f"{label}: its pickle would be {members[name].file_size} bytes long")
        if order is not None and archive.read(order.filename)[:3] == b"big":
            raise UserError(f"{label}: written on a machine of the other byte order; save it again on this one")
        text = archive.read(name)

    def find(key: str, n_bytes: int) -> Storage:
        member = members[f"{folder}data/{key}"]
        begin = _begin(file, member)
        if member.compress_type != zipfile.ZIP_STORED or n_bytes > member.file_size or begin + n_bytes > size:
            raise UserError(f"storage {key} of {n_bytes} bytes is not there")
        return Storage(None, n_bytes, lambda at: open_at(file, begin + at))

    return _read(Window(io.BytesIO(text), len(text)), _Numbers(label, find))


def _begin(file: Path, member: zipfile.ZipInfo) -> int:
    """Where the bytes of a member begin."""
    if member.header_offset < 0:
        raise UserError("a part lies outside the file")
    with open_at(file, member.header_offset) as f:
        head = f.read(30)
    if len(head) != 30 or head[:4] != b"PK\x03\x04":
        raise UserError(f"{member.filename[:60]} is not where it should be")
    name, extra = struct.unpack("<HH", head[26:30])
    return member.header_offset + 30 + name + extra


def open_pickle(file: Path, label: str) -> Any:
    """What is in a file of an older torch, or in a plain pickle."""
    with file.open("rb") as f:
        return _legacy(Window(f, file.stat().st_size), label, partial(open_at, file))


def _legacy(stream: Window, label: str, open_from: Callable[[int], Bytes]) -> Any:
    """A magic number, a version, facts of the machine, the object, the keys of its storages, and their numbers."""
    places: dict[str, int] = {}
    sizes: dict[str, int] = {}

    def find(key: str, n_bytes: int) -> Storage:
        sizes[key] = n_bytes
        return Storage(None, n_bytes, lambda at: open_from(places[key] + at))

    numbers = _Numbers(label, find)
    found = _read(stream, numbers)
    if found != LEGACY:
        return found
    _read(stream, numbers)
    machine = _read(stream, numbers)
    if isinstance(machine, dict) and machine.get("little_endian") is False:
        raise UserError(f"{label}: written on a machine of the other byte order; save it again on this one")
    found, keys = _read(stream, numbers), _read(stream, numbers)
    for key in keys if isinstance(keys, list) else ():
        stream.read(8)
        places[str(key)] = stream.tell()
        if (size := sizes.get(str(key), 0)) > stream.left:
            raise UserError(f"{label}: ends before the end of its numbers")
        stream.skip(size)
    if missing := sizes.keys() - places.keys():
        raise UserError(f"{label}: the numbers of storage {sorted(missing)[0][:40]} are missing")
    return found


def _read(stream: Window, numbers: _Numbers) -> Any:
    return read_pickle(stream, numbers.label, _known, numbers.build, numbers.persistent)


def _known(name: Name) -> bool:
    return name.name in OF_TORCH.get(name.module, ()) or name.module.startswith(FOREIGN)


def _dtype(kind: Any) -> torch.dtype | None:
    """The type of a storage, from the name of its class; None for bytes, and for what is no name of a type."""
    if not isinstance(kind, Name):
        raise UserError("a type is no name")
    if kind.name == "UntypedStorage":
        return None
    return STORAGES[kind.name.removesuffix("Storage")] if kind.name.endswith("Storage") else _DTYPES[kind.name]


def _in_rows(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether the numbers lie row by row, without gaps."""
    step = 1
    for n, stride in zip(reversed(shape), reversed(strides), strict=True):
        if n != 1 and stride != step:
            return False
        step *= n
    return True


def _scattered(label: str) -> Bytes:
    raise UserError(f"{label}: a tensor does not lie in one piece; save it again from .contiguous()")


def _inside(content: bytes, at: int) -> Bytes:
    f = io.BytesIO(content)
    f.seek(at)
    return f
