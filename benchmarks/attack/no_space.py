"""A full disk for one process, without a disk: Linux refuses its system calls with ENOSPC, by a seccomp filter.

The filter sees every write, also those of compiled libraries. Descriptors 0 to 2 are left alone, so that the process
can say what went wrong. It cannot be removed: it belongs into a child.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct

_CALLS = {
    "x86_64": {
        "write": [1, 18, 20, 296, 285],  # write pwrite64 writev pwritev fallocate
        "create": [83, 258, 88, 266, 82, 264, 316],  # mkdir mkdirat symlink symlinkat rename renameat renameat2
        "open": [2, 257],  # open openat
        "fsync": [74, 75],  # fsync fdatasync
    },
    "aarch64": {"write": [64, 68, 66, 70, 47], "create": [34, 36, 38, 276], "open": [56], "fsync": [82, 83]},
}
_OPEN_AT = {257, 56}
_NO_NEW_PRIVILEGES, _SET_SECCOMP, _FILTER_MODE = 38, 22, 2
_ALLOW, _FAIL = 0x7FFF0000, 0x00050000 | errno.ENOSPC
_LOAD, _EQUAL, _GREATER, _ANY_BIT, _RETURN = 0x20, 0x15, 0x25, 0x45, 0x06
_NUMBER, _ARGUMENTS = 0, 16

WAYS = ("write", "create", "fsync")
"""What fails: writing to files; that and making or renaming them; or flushing them alone, where a file system assigns
blocks late."""


def is_possible() -> bool:
    """Whether this system has such filters."""
    return platform.system() == "Linux" and platform.machine() in _CALLS


def fill_disk(way: str) -> None:
    """From now on the disk is full for this process."""
    calls = _CALLS[platform.machine()]
    program = _program(calls, way)
    code = b"".join(struct.pack("<HBBI", *instruction) for instruction in program)
    kept = ctypes.create_string_buffer(code)
    header = struct.pack("<HxxxxxxQ", len(program), ctypes.addressof(kept))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in ((_NO_NEW_PRIVILEGES, 1, 0, 0, 0), (_SET_SECCOMP, _FILTER_MODE, header, 0, 0)):
        if libc.prctl(*arguments):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _program(calls: dict[str, list[int]], way: str) -> list[tuple[int, int, int, int]]:
    """The filter, as instructions of the kernel's packet filters: code, steps forward if true, if false, value."""
    program: list[tuple[int, int, int, int]] = []

    def when(number: int, check: list[tuple[int, int, int, int]]) -> None:
        """Fails a system call where the check does not step over the next instruction."""
        program.append((_LOAD, 0, 0, _NUMBER))
        program.append((_EQUAL, 0, len(check) + 1, number))
        program.extend([*check, (_RETURN, 0, 0, _FAIL)])

    for number in calls["fsync"] if way == "fsync" else calls["write"]:
        when(number, [(_LOAD, 0, 0, _ARGUMENTS), (_GREATER, 0, 1, 2)])  # the descriptor
    if way == "create":
        for number in calls["create"]:
            when(number, [])
        for number in calls["open"]:
            flags = _ARGUMENTS + (16 if number in _OPEN_AT else 8)
            when(number, [(_LOAD, 0, 0, flags), (_ANY_BIT, 0, 1, os.O_CREAT)])
    return [*program, (_RETURN, 0, 0, _ALLOW)]
