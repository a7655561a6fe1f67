"""Atomic writes: a file appears under its name whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file so that no reader and no killed process ever sees half of it."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def atomic_file(path: Path, temporary: Path | None = None) -> Generator[Path]:
    """A temporary path to write to; when the block ends, the file is synced to disk and renamed to `path`.

    If the block raises, the temporary file is removed and `path` stays as it was. The default name of the temporary
    file contains the process id, so that two processes may write the same file. A process that is killed leaves the
    temporary file behind; pass a fixed `temporary` path where the next run should overwrite that leftover. The file has
    the permissions of any new file of this process, also where a library creates it for its user alone.
    """
    temporary = temporary or path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.unlink(missing_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
