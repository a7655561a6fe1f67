"""Checksums of unfinished work, so that a file damaged since it was written is never continued from.

The files of a source in preparation are recorded in its folder as the source reports progress. A checkpoint has its
checksum in a file beside it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from sae.numerics.atomic_write import write_atomically

CHECKSUMS = ".checksums.json"
"""Hidden file in an unfinished folder with the size, time of change and SHA-256 of its files, by name."""


def record_files(folder: Path) -> None:
    """Records the files of a folder that are new or have changed since they were last recorded."""
    known = _recorded(folder)
    found: dict[str, list[Any]] = {}
    for name, file in _files(folder).items():
        with suppress(FileNotFoundError):  # a temporary file that has just been renamed
            status = file.stat()
            stamp = [status.st_size, status.st_mtime_ns]
            before = known.get(name, [])
            found[name] = before if before[:2] == stamp else [*stamp, sha256(file)]
    if found != known:
        write_atomically(folder / CHECKSUMS, json.dumps(found).encode())


def remove_damaged(folder: Path) -> list[str]:
    """Removes the files of an unfinished folder that are not as they were recorded; returns their names.

    Files that were never recorded are among them: whether they are whole is not known. With one file, every JSON file
    goes, because those mark work as complete that the file belongs to.
    """
    known, files = _recorded(folder), _files(folder)
    recorded_right = {n for n, f in files.items() if known.get(n, [])[2:] == [sha256(f)]}
    gone = sorted((files.keys() | known.keys()) - recorded_right)
    if gone:
        gone += sorted(name for name in recorded_right if name.endswith(".json"))
    for name in gone:
        (folder / name).unlink(missing_ok=True)
    return gone


def _files(folder: Path) -> dict[str, Path]:
    files = {f.relative_to(folder).as_posix(): f for f in folder.rglob("*") if not f.name.startswith(".")}
    return {name: file for name, file in files.items() if file.is_file()}


def changed_since_recorded(folder: Path, hashes: Mapping[str, str]) -> list[str]:
    """The files of an unfinished folder whose SHA-256 in `hashes` is not the recorded one."""
    known = _recorded(folder)
    return [name for name, value in hashes.items() if known.get(name, [])[2:] not in ([], [value])]


def _recorded(folder: Path) -> dict[str, list[Any]]:
    """The recorded files; none where there is no record or it is damaged."""
    try:
        content: Any = json.loads((folder / CHECKSUMS).read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    entries = cast(dict[str, Any], content) if isinstance(content, dict) else {}
    return {name: entry for name, entry in entries.items() if isinstance(entry, list) and _is_inside(name)}


def _is_inside(name: str) -> bool:
    """Whether a recorded name is that of a file in the folder, so that removing it removes nothing else."""
    return not Path(name).is_absolute() and ".." not in Path(name).parts


def write_checked(file: Path, content: bytes) -> None:
    """Writes a file atomically with its checksum beside it.

    The checksum is written first, next to that of the content to be replaced: whenever the process is killed, the file
    has one of the two.
    """
    beside = _beside(file)
    before = _hashes_in(beside)[:1] if beside.is_file() else []
    write_atomically(beside, "\n".join([hashlib.sha256(content).hexdigest(), *before]).encode())
    write_atomically(file, content)


def is_intact(file: Path) -> bool:
    """Whether a file is as :func:`write_checked` wrote it."""
    try:
        return sha256(file) in _hashes_in(_beside(file))
    except FileNotFoundError:
        return False


def sha256(file: Path) -> str:
    """The SHA-256 of a file's content, in hex."""
    with file.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _hashes_in(beside: Path) -> list[str]:
    """The hashes in a file of checksums; those of a damaged one are those of nothing."""
    return beside.read_bytes().decode(errors="replace").split()


def _beside(file: Path) -> Path:
    return file.with_name(file.name + ".sha256")
