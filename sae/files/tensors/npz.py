"""NumPy's archives: a zip of ``.npy`` files. Arrays of objects, which are pickles, are refused unread."""

from __future__ import annotations

import math
import re
import struct
import zipfile
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO

import torch

from sae.files.tensors.tensor import StoredTensor
from sae.registry import UserError

MAGIC = b"\x93NUMPY"
_HEADER = re.compile(
    rb"\s*\{\s*'descr':\s*'([<>|=]?)([a-zA-Z?]\d*)',\s*'fortran_order':\s*(True|False),"
    rb"\s*'shape':\s*\(\s*((?:\d{1,15}\s*,?\s*)*)\),?\s*\}\s*"
)
_DTYPES = {
    b"f8": torch.float64,
    b"f4": torch.float32,
    b"f2": torch.float16,
    b"i8": torch.int64,
    b"i4": torch.int32,
    b"i2": torch.int16,
    b"i1": torch.int8,
    b"u1": torch.uint8,
    b"b1": torch.bool,
    b"?": torch.bool,
}
MOST_SQUEEZED = 50
"""Weights are noise and hardly become smaller; whoever announces so many times the file's size has other plans."""
ALLOWED = 64 * 2**20
DAMAGE = (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, struct.error, zlib.error, KeyError)


@contextmanager
def damage_is_told(label: str) -> Generator[None]:
    """Whatever is wrong with a zip archive, as a ``ValueError`` of one line."""
    try:
        yield
    except DAMAGE as error:
        raise UserError(f"{label}: not a whole zip archive: {' '.join(str(error).split())[:200]}") from None
    except OverflowError:
        raise UserError(f"{label}: not a whole zip archive: a length is out of bounds") from None


def open_npz(file: Path, label: str) -> dict[str, StoredTensor]:
    """Every array by its name."""
    with damage_is_told(label), zipfile.ZipFile(file) as archive:
        found = [m for m in archive.infolist() if m.filename.endswith(".npy")]
        announced = sum(member.file_size for member in found)
        if announced > MOST_SQUEEZED * file.stat().st_size + ALLOWED:
            raise UserError(
                f"{label}: would unpack to {announced} bytes from {file.stat().st_size}; no weights are like that"
            )
        return {m.filename[:-4]: _array(archive, m, file, label) for m in found}


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, file: Path, label: str) -> StoredTensor:
    name = member.filename[:-4]
    with archive.open(member) as f:
        head = f.read(10)
        wide = head[6:7] in (b"\x02", b"\x03")
        n = int.from_bytes(head[8:10] + (f.read(2) if wide else b""), "little")
        text = f.read(n) if head[:6] == MAGIC and n <= 2**14 else b""
    told = _HEADER.fullmatch(text)
    if told is None:
        objects = b"'|O'" in text or b"'O'" in text
        raise UserError(f"{label}: {name} {'holds pickled objects' if objects else 'is no array of numbers'}")
    order, kind, by_columns, axes = told.groups()
    shape = tuple(int(n) for n in re.findall(rb"\d+", axes))
    if kind not in _DTYPES or order == b">":
        raise UserError(f"{label}: {name} has the type {(order + kind).decode()}, which cannot be read")
    begin = 10 + 2 * wide + n
    if len(shape) > 8 or begin + math.prod(shape) * _DTYPES[kind].itemsize != member.file_size:
        raise UserError(f"{label}: {name} has shape {shape}, which its {member.file_size} bytes do not hold")
    by_columns = by_columns == b"True" and len(shape) > 1
    if by_columns and len(shape) != 2:
        raise UserError(f"{label}: {name} lies by columns in {len(shape)} dimensions, which cannot be read")
    return StoredTensor(
        label, name, _DTYPES[kind], shape, partial(_Member, file, member.filename, begin, label), by_columns
    )


class _Member:
    """The numbers of one array, unpacked as they are read. Damage is told like that of the archive."""

    def __init__(self, file: Path, name: str, begin: int, label: str) -> None:
        self.label = label
        with damage_is_told(label):
            self.archive = zipfile.ZipFile(file)
            self.f: IO[bytes] = self.archive.open(name)
            self.f.read(begin)

    def readinto(self, into: memoryview, /) -> int:
        with damage_is_told(self.label):
            found = self.f.read(len(into))
        into[: len(found)] = found
        return len(found)

    def close(self) -> None:
        self.f.close()
        self.archive.close()
