"""NumPy archives: zip files of ``.npy`` arrays. Arrays of objects, which are pickles, are refused unread."""

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
MAX_COMPRESSION = 50
"""Weights hardly compress; files that declare more than this many times their size are refused as zip bombs."""
UNPACK_ALLOWANCE = 64 * 2**20
"""Bytes that a file may unpack to in addition."""
ZIP_ERRORS = (
    zipfile.BadZipFile,
    NotImplementedError,
    RuntimeError,
    EOFError,
    OSError,
    struct.error,
    zlib.error,
    KeyError,
)


@contextmanager
def zip_errors(label: str) -> Generator[None]:
    """Turns errors of a damaged zip archive in its block into `UserError`."""
    try:
        yield
    except ZIP_ERRORS as error:
        raise UserError(f"{label}: not a complete zip archive: {' '.join(str(error).split())[:200]}") from None
    except OverflowError:
        raise UserError(f"{label}: not a complete zip archive: a length is out of bounds") from None


def open_npz(file: Path, label: str) -> dict[str, StoredTensor]:
    """The arrays of an archive by name."""
    with zip_errors(label), zipfile.ZipFile(file) as archive:
        members = [m for m in archive.infolist() if m.filename.endswith(".npy")]
        announced = sum(member.file_size for member in members)
        if announced > MAX_COMPRESSION * file.stat().st_size + UNPACK_ALLOWANCE:
            raise UserError(
                f"{label}: would unpack from {file.stat().st_size} to {announced} bytes, as weights never do"
            )
        return {m.filename[:-4]: _array(archive, m, file, label) for m in members}


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, file: Path, label: str) -> StoredTensor:
    name = member.filename[:-4]
    with archive.open(member) as f:
        head = f.read(10)
        long_header = head[6:7] in (b"\x02", b"\x03")
        n = int.from_bytes(head[8:10] + (f.read(2) if long_header else b""), "little")
        text = f.read(n) if head[:6] == MAGIC and n <= 2**14 else b""
    match = _HEADER.fullmatch(text)
    if match is None:
        objects = b"'|O'" in text or b"'O'" in text
        raise UserError(f"{label}: {name} {'holds pickled objects' if objects else 'is not an array of numbers'}")
    order, kind, column_major, axes = match.groups()
    shape = tuple(int(n) for n in re.findall(rb"\d+", axes))
    if kind not in _DTYPES or order == b">":
        raise UserError(f"{label}: {name} has the type {(order + kind).decode()}, which is not supported")
    begin = 10 + 2 * long_header + n
    if len(shape) > 8 or begin + math.prod(shape) * _DTYPES[kind].itemsize != member.file_size:
        raise UserError(f"{label}: {name} has shape {shape}, which does not match its {member.file_size} bytes")
    column_major = column_major == b"True" and len(shape) > 1
    if column_major and len(shape) != 2:
        raise UserError(f"{label}: {name} is column-major with {len(shape)} axes, which is not supported")
    return StoredTensor(
        label, name, _DTYPES[kind], shape, partial(_ArrayStream, file, member.filename, begin, label), column_major
    )


class _ArrayStream:
    """Stream of the numbers of one array, unpacked as it is read."""

    def __init__(self, file: Path, name: str, begin: int, label: str) -> None:
        self.label = label
        with zip_errors(label):
            self.archive = zipfile.ZipFile(file)
            self.f: IO[bytes] = self.archive.open(name)
            self.f.read(begin)

    def readinto(self, into: memoryview, /) -> int:
        with zip_errors(self.label):
            content = self.f.read(len(into))
        into[: len(content)] = content
        return len(content)

    def close(self) -> None:
        self.f.close()
        self.archive.close()
