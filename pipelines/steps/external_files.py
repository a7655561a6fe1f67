"""Files outside the run that steps read: each is hashed when a run is planned, and checked again around its reading."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from pipelines.steps.checksums import sha256
from pipelines.steps.manifest import unreadable
from pipelines.steps.source_steps import open_step, settings
from pipelines.steps.step import Step
from sae.probing import TaskSettings
from sae.probing.sources import other_files
from sae.registry import MissingFileError, UserError
from sae.source import Source

_SETTLED_SECONDS = 2.0
"""A file that changed more recently may change again within one tick of the clock of its file system, unnoticed."""
_known_hashes: dict[tuple[str, int, int, int, int], str] = {}
"""The hashes of files that were read in this process, by what a change of the file changes."""


def content_hash(file: Path, field: str) -> str:
    """The SHA-256 of an external file; a file that has not changed is read once per process.

    Raises `MissingFileError` if there is no such file and `UserError` if it cannot be read; `field` is the setting that
    names it.
    """
    try:
        if not file.is_file():
            raise MissingFileError(f"{field} = {str(file)!r}: does not exist or is not a file; correct the path")
        before = _identity(file)
        if before not in _known_hashes:
            value = sha256(file)
            if _identity(file) != before or time.time() - file.stat().st_mtime < _SETTLED_SECONDS:
                return value
            _known_hashes[before] = value
        return _known_hashes[before]
    except MissingFileError:
        raise
    except OSError as error:
        raise unreadable(f"{field} = {str(file)!r}", error) from None


def _identity(file: Path) -> tuple[str, int, int, int, int]:
    status = file.stat()
    return (str(file.absolute()), status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def refuse_changed(step: Step) -> None:
    """Raises `UserError` where a file that the step reads is not the one with which the run was planned.

    The runner calls it before a step is worked on and before it is finished, so that what is stored under a key was
    computed from the content that the key stands for.
    """
    if "source" in step.config:
        files = settings(step.config["source"]).external_files()
        _compare(files, step.config["files"], "source")
    elif "tasks" in step.config:
        source = settings(step.inputs["source"].config["source"])
        files = other_files(source, TaskSettings(**step.config["tasks"]))
        _compare(files, step.config["files"], "probe.tasks")
    if "source" in step.inputs:  # not the report: it draws what is in the directories of steps
        refuse_changed_since_prepared(step.inputs["source"])


def refuse_changed_since_prepared(source: Step) -> None:
    """Raises `UserError` where a file that a prepared source still reads is not the one of its step.

    A streamed source has stored what it read of texts and labels; only its model is read again.
    """
    config = settings(source.config["source"])

    def is_read(name: str) -> bool:
        return config.stage != "stream" or name.split("/")[0] == "model"

    files = {name: file for name, file in config.external_files().items() if is_read(name)}
    planned = {name: value for name, value in source.config["files"].items() if is_read(name)}
    _compare(files, planned, "source")


def open_checked(source: Step, directory: Path, device: str) -> Source:
    """The source of a finished step, for work outside of steps.

    Raises `UserError` where a file that it reads is not the one with which the run was planned.
    """
    refuse_changed_since_prepared(source)
    opened = open_step(source, directory, device)
    refuse_changed_since_prepared(source)
    return opened


def _compare(files: Mapping[str, Path], planned: Mapping[str, str], table: str) -> None:
    for name in sorted({*files, *planned}):
        file = files.get(name)
        try:
            changed = file is None or content_hash(file, f"{table}.{name}") != planned.get(name)
        except MissingFileError:
            changed = True
        if changed:
            place = "" if file is None else f" = {str(file)!r}"
            raise UserError(f"{table}.{name}{place}: changed since this run was planned; run again")
