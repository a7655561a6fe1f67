"""Finished steps on disk: ``OUT/<stage>-<key>``, each complete or absent, described by a manifest.

A step is written under ``<name>.partial``; its manifest, with the hash of every file, is written last; then the
directory is renamed. ``.locks`` and ``.scratch`` hold the locks and checkpoints of runs in progress.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pipelines.steps.step import Step
from sae.numerics.atomic_write import write_atomically
from sae.registry import UserError

MANIFEST = "manifest.json"
"""File in a step's directory with its config, inputs and the hash of every file."""


@dataclass(frozen=True)
class Store:
    """The output folder that holds the directories of steps; several runs may share it."""

    root: Path
    """Path of the folder."""

    def create(self) -> None:
        """Creates the folder. Raises `UserError` where it cannot be created or written to."""
        try:
            for folder in (".locks", ".scratch"):
                (self.root / folder).mkdir(parents=True, exist_ok=True)
            probe = self.root / ".locks" / f".probe.{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            reason = error.strerror or str(error)
            raise UserError(f"{self.root}: not writable ({reason}); choose another folder with --out") from None

    def directory(self, step: Step) -> Path:
        """Where the step is once it is finished."""
        return self.root / step.name

    def partial(self, step: Step) -> Path:
        """Where the step is while it is being filled."""
        return self.root / f"{step.name}.partial"

    def scratch(self, group: str) -> Path:
        """Folder of a group's checkpoints and status; it survives an interruption."""
        return self.root / ".scratch" / group

    def done(self, step: Step) -> bool:
        """Whether the step is finished; :meth:`verify` checks that its files are undamaged."""
        return self.directory(step).is_dir()

    def commit(self, step: Step, device: str, seconds: float) -> Path:
        """Writes the manifest of a filled partial directory and renames it to the finished step."""
        partial, final = self.partial(step), self.directory(step)
        (partial / MANIFEST).unlink(missing_ok=True)  # of a run that was killed just before renaming
        for leftover in [f for f in partial.rglob(".*") if f.is_file()]:  # of a run that was killed while writing
            leftover.unlink()
        files = {f.relative_to(partial).as_posix(): f for f in sorted(partial.rglob("*")) if f.is_file()}
        manifest = {
            "stage": step.stage,
            "version": step.version,
            "key": step.key,
            "title": step.title,
            "config": step.config,
            "inputs": {name: source.name for name, source in step.inputs.items()},
            "files": {name: {"size": f.stat().st_size, "sha256": sha256(f)} for name, f in files.items()},
            "versions": versions(),
            "device": device,
            "seconds": round(seconds, 3),
        }
        write_atomically(partial / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())
        for path in (*files.values(), *{f.parent for f in files.values()}, partial):
            _sync(path)
        partial.rename(final)
        _sync(self.root)
        return final

    def verify(self, step: Step) -> None:
        """Checks the files of a finished step. Raises `UserError` naming the first that is missing or damaged."""
        directory = self.directory(step)
        remedy = f"delete {directory} and run again"
        for name, written in read_manifest(directory)["files"].items():
            file = directory / name
            if not file.is_file():
                raise UserError(f"{file}: the file is missing; {remedy}")
            if file.stat().st_size != written["size"] or sha256(file) != written["sha256"]:
                raise UserError(f"{file}: damaged, its hash differs from the manifest; {remedy}")

    @contextmanager
    def claim(self, group: str) -> Generator[bool]:
        """Tries to lock a group; yields whether it succeeded. The lock ends with the block or the process."""
        from filelock import FileLock, Timeout

        lock = FileLock(self.root / ".locks" / f"{group}.lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of a finished step. Raises `UserError` where it is missing or unreadable."""
    file = directory / MANIFEST
    try:
        manifest: Any = json.loads(file.read_text())
    except (OSError, json.JSONDecodeError, UnicodeDecodeError):
        manifest = None
    if not isinstance(manifest, dict) or "files" not in manifest:
        raise UserError(f"{file}: missing or damaged; delete {directory} and run again")
    return cast(dict[str, Any], manifest)


def sha256(file: Path) -> str:
    """The SHA-256 of a file's content, in hex."""
    with file.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def versions() -> dict[str, str]:
    """Versions of the software that results depend on."""
    import numpy
    import torch

    import sae

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "sae": sae.__version__,
    }


def _sync(path: Path) -> None:
    """Flushes a file or directory to disk, so that no manifest can survive a power cut without the files it lists.

    Windows cannot open a directory, and flushes only files that are open for writing.
    """
    if sys.platform == "win32" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
