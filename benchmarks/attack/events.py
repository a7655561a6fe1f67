"""The moments at which a process changes files, and what can be made to happen at the n-th of them.

Python announces the opening, renaming, making and removing of files to audit hooks; `os.fsync`, which it does not
announce, is wrapped. A hook cannot be removed: it belongs into a child.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_NAMED = frozenset({"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.symlink", "os.link", "shutil.copyfile"})
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def at_event(n: int, folder: Path, happens: Callable[[], object]) -> Callable[[], None]:
    """A function that installs hooks in its process: before the n-th change in a folder, from 0, something happens."""
    return lambda: _on_change(_Countdown(n, folder, happens))


def die() -> None:
    """Ends this process as `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)


def log_to(file: Path, folder: Path) -> Callable[[], None]:
    """A function that installs hooks which append a line to a file at every change in a folder."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def write(event: str, place: str) -> None:
        if _is_inside(place, folder):
            os.write(descriptor, f"{event} {place}\n".encode())

    return lambda: _on_change(write)


class _Countdown:
    """Calls a function at the n-th change in a folder."""

    def __init__(self, n: int, folder: Path, happens: Callable[[], object]) -> None:
        self.left, self.folder, self.happens = n, folder, happens

    def __call__(self, _: str, place: str) -> None:
        if not _is_inside(place, self.folder):
            return
        self.left -= 1
        if self.left == -1:
            self.happens()


def _place(path: str | bytes | os.PathLike[str], *more: object) -> str:
    """A path that is relative to an open folder, as `shutil.rmtree` gives it, made absolute."""
    name = os.fsdecode(path)
    folders = [fd for fd in more if isinstance(fd, int) and fd > 2]
    return name if name.startswith("/") or not folders else f"{os.readlink(f'/proc/self/fd/{folders[-1]}')}/{name}"


def _is_inside(place: str, folder: Path) -> bool:
    return place.startswith(str(folder))


def _on_change(told: Callable[[str, str], None]) -> None:
    """Calls a function with every change of files in this process: what changes and where."""
    flush = os.fsync

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, str | bytes | os.PathLike) and isinstance(flags, int) and flags & _WRITES:
                told("open", os.fsdecode(path))
        elif event in _NAMED:
            told(event, _place(*arguments))

    def fsync(descriptor: int) -> None:
        told("fsync", os.readlink(f"/proc/self/fd/{descriptor}"))
        flush(descriptor)

    sys.addaudithook(hook)
    os.fsync = fsync
