"""Atomic writes: a file appears under its name whole or not at all."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from sae.registry import UserError

if TYPE_CHECKING:
    from torch import Tensor


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file so that no reader and no killed process ever sees half of it."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(content)


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None, temporary: Path | None = None
) -> None:
    """Writes a safetensors file as :func:`atomic_file` does, tensor by tensor. Raises `UserError` that names it where
    the system refuses to write, as on a full disk."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with atomic_file(path, temporary) as partial:
        try:
            save_file(dict(tensors), partial, None if metadata is None else dict(metadata))
        except SafetensorError as error:
            code = re.search(r"os error (\d+)", str(error))
            if code is None:
                raise
            cause = OSError(int(code[1]), os.strerror(int(code[1])), str(path))
            raise UserError(f"{path}: {cause.strerror}") from cause


@contextmanager
def named_errors(path: Path) -> Generator[None]:
    """Names a file in errors of the system that name none, as those of writing and flushing do."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def atomic_file(path: Path, temporary: Path | None = None) -> Generator[Path]:
    """A temporary path to write to; when the block ends, the file is synced to disk and renamed to `path`.

    If the block raises, the temporary file is removed and `path` stays as it was. The default name of the temporary
    file is that of this process on this machine, so that several may write the same file. A process that is killed
    leaves the temporary file behind; pass a fixed `temporary` path where the next run should overwrite that leftover.
    The file has the permissions of any new file of this process, also where a library creates it for its user alone.
    """
    temporary = temporary or path.with_name(f".{path.name}.{_of_this_process(os.getpid())}")
    try:
        with named_errors(path):
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


@cache
def _of_this_process(pid: int) -> str:
    """A part of file names that no other process has: processes of two machines may have one number."""
    return f"{pid}-{secrets.token_hex(4)}"


def link_or_copy(file: Path, to: Path) -> None:
    """Gives a file that is never written in place a second name, or copies it where the file system has no links.

    Files of :func:`atomic_file` are such: to write one again or to remove it under one name leaves the other name with
    the former content.
    """
    with atomic_file(to) as temporary:
        temporary.unlink()
        try:
            os.link(file, temporary)
        except OSError:
            shutil.copyfile(file, temporary)
