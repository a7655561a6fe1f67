"""The SHA-256 of large files that have not changed since they were last read, so that a run need not read them at its
start.

A file is taken for unchanged while its path, size, inode and times of change are the same. What is known is kept in
``OUT/.hashes.json``, and in a hidden file of each step, which is there as soon as the step is: a step that another
worker has finished is not read by all others. ``sae verify`` does without both. A change that leaves those as they
were, such as a bit that flips on the disk, is found when the file is read: steps read their inputs whole
(:func:`sha256_now`), and shards compare each block with its checksum (`sae.activations.block_sums`).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, cast

from pipelines.steps.checksums import sha256
from sae.numerics.atomic_write import write_atomically

LARGE_FILE = 1 << 18
"""Bytes from which on a file of a finished step is not read at every start."""
HASHES = ".hashes.json"
"""File in the folder of all steps, and in that of a step, with the hashes that are known from earlier runs."""
SETTLED_SECONDS = 2.0
"""A file that changed more recently may change again within one tick of the clock of its file system, unnoticed."""


class _Known(NamedTuple):
    identity: tuple[int, ...]
    """Size, times of change and inode of the file when it was read."""
    sha256: str
    here: bool
    """Whether this process has read the file, and not an earlier one."""


_known: dict[str, _Known] = {}
"""By absolute path."""
_saved: set[tuple[Path, str, tuple[int, ...]]] = set()
"""Folder, path and identity of what :func:`save_known` has written."""


def known_sha256(file: Path) -> str:
    """The SHA-256 of a file, which is read only if it is not known or has changed."""
    known = _known.get(str(file.absolute()))
    return known.sha256 if known is not None and known.identity == _identity(file) else read_sha256(file)


def sha256_now(file: Path) -> str:
    """As :func:`known_sha256`, but a hash that is known from an earlier process does not count."""
    known = _known.get(str(file.absolute()))
    return known.sha256 if known is not None and known.here and known.identity == _identity(file) else read_sha256(file)


def read_sha256(file: Path) -> str:
    """The SHA-256 of a file that is read in any case."""
    before = _identity(file)
    value = sha256(file)
    if _identity(file) == before and time.time() - file.stat().st_mtime >= SETTLED_SECONDS:
        _keep(file, before, value)
    return value


def remember(file: Path, value: str) -> None:
    """Takes `value` for the SHA-256 of a file that nobody else writes to."""
    _keep(file, _identity(file), value)


def record_step(folder: Path, hashes: Mapping[str, str]) -> None:
    """Records the hashes of the large files of a step, by name, in its folder, which may be renamed afterwards."""
    found = {name: _identity(folder / name) for name in hashes}
    lines = {name: [*identity, hashes[name]] for name, identity in found.items() if identity[0] >= LARGE_FILE}
    if lines:
        write_atomically(folder / HASHES, json.dumps(lines, indent=0).encode())


def load_step(folder: Path) -> None:
    """Takes over what the folder of a finished step says of its files, where it is true and no more is known."""
    for name, entry in _entries(folder).items():
        if not ((known := _known.get(name)) and _is_true(name, known)) and _is_true(name, entry):
            _known[name] = entry


def _keep(file: Path, identity: tuple[int, ...], value: str) -> None:
    _known[str(file.absolute())] = _Known(identity, value, here=True)


def forget() -> None:
    """Forgets all hashes, as a new process would."""
    _known.clear()
    _saved.clear()


def _identity(file: Path) -> tuple[int, ...]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def load_known(root: Path) -> None:
    """Takes over what earlier runs in a folder of steps knew; nothing where there is no record or it is damaged."""
    for name, entry in _entries(root).items():
        known = _known.get(name)
        if known is None or not known.here:
            _known[name] = entry


def save_known(root: Path, outside: Collection[Path] = ()) -> None:
    """Writes what is known of large files in a folder of steps, and of those of `outside`, if it is still true.

    Two runs that write at the same time lose what one of them knew, which is then read again.
    """
    inside, others = f"{root.absolute()}{os.sep}", {str(file.absolute()) for file in outside}
    mine = {name: known for name, known in _known.items() if name.startswith(inside) or name in others}
    large = {name: known for name, known in mine.items() if known.here and known.identity[0] >= LARGE_FILE}
    triples = {(root, name, known.identity) for name, known in large.items()}
    if triples <= _saved:
        return
    known = _entries(root) | large
    lines = {_shown(name, root): [*k.identity, k.sha256] for name, k in sorted(known.items()) if _is_true(name, k)}
    with suppress(OSError):  # a folder that can only be read, a full disk: the files are read again
        write_atomically(root / HASHES, json.dumps(lines, indent=0).encode())
    _saved.update(triples)


def _entries(root: Path) -> dict[str, _Known]:
    """The record in a folder of steps, by absolute path."""
    try:
        content: Any = json.loads((root / HASHES).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    entries = cast(dict[str, Any], content) if isinstance(content, dict) else {}
    right = {name: entry for name, entry in entries.items() if _is_entry(entry)}
    return {str(root.absolute() / name): _Known(tuple(e[:-1]), e[-1], here=False) for name, e in right.items()}


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, list) and [type(part) for part in cast(list[Any], entry)] == [int, int, int, int, str]


def _is_true(name: str, known: _Known) -> bool:
    try:
        return _identity(Path(name)) == known.identity
    except OSError:
        return False


def _shown(name: str, root: Path) -> str:
    """A path as it is written: relative inside the folder of steps, so that the folder can be moved."""
    path = Path(name)
    return path.relative_to(root.absolute()).as_posix() if path.is_relative_to(root.absolute()) else name
