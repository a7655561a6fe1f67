"""A read-only memory map of a file that keeps no file descriptor open.

Python's :mod:`mmap` and NumPy's memmap keep a duplicate of the descriptor as long as the map exists, so that a source
of more shards than a process may open files, often 1024, could not be read. The map itself needs none: on POSIX it is
made by the C library's ``mmap``. Windows has no such limit, and Python's map is used there.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import weakref
from functools import cache
from pathlib import Path
from typing import Any

from sae.registry import UserError

_MAP_FAILED = ctypes.c_void_p(-1).value


def map_file(file: Path) -> Any:
    """The bytes of a file as a buffer that the operating system loads on use; it is unmapped when the last array on it
    is gone. Raises `UserError` where the file cannot be mapped."""
    with file.open("rb") as f:
        size = os.fstat(f.fileno()).st_size
        if sys.platform == "win32":
            return mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
        address = _libc().mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, f.fileno(), 0)
    if address == _MAP_FAILED:
        reason = os.strerror(ctypes.get_errno())
        raise UserError(
            f"{file}: cannot be mapped into memory ({reason}); check `ulimit -v` and vm.max_map_count, or prepare the "
            "source with a larger shard_tokens"
        )
    buffer = (ctypes.c_ubyte * size).from_address(address)
    # Not at exit, where a thread may still be reading; the operating system unmaps it then.
    weakref.finalize(buffer, _libc().munmap, address, size).atexit = False
    return buffer


def request_bytes(buffer: Any, begin: int, size: int) -> None:
    """Asks the operating system to load bytes of a map, without waiting for them."""
    page = begin // mmap.PAGESIZE * mmap.PAGESIZE
    if not isinstance(buffer, mmap.mmap):
        _libc().madvise(ctypes.addressof(buffer) + page, begin + size - page, mmap.MADV_WILLNEED)


@cache
def _libc() -> Any:
    """The C library, with the types of the three functions."""
    libc = ctypes.CDLL(None, use_errno=True)
    pointer, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    libc.mmap.restype = pointer
    libc.mmap.argtypes = (pointer, size, number, number, number, ctypes.c_int64)
    libc.munmap.argtypes = (pointer, size)
    libc.madvise.argtypes = (pointer, size, number)
    return libc
