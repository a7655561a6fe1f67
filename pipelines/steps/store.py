"""Finished steps on disk: ``OUT/<stage>-<key>``, whole or not there at all, with what they are in a manifest.

A step is filled under ``<name>.partial``; its manifest, with the hash of every file, is written last; then the
directory is renamed. Directories that begin with a dot are the runs' own: locks, and scratch for checkpoints.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pipelines.steps.step import Step
from sae.files.native import write_whole
from sae.registry import UserError

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Store:
    """The directory of steps of all runs that share an output folder."""

    root: Path

    def create(self) -> None:
        """Makes the folder; ``OSError`` of one line where that cannot be, or nothing can be written there."""
        try:
            for folder in (".locks", ".scratch"):
                (self.root / folder).mkdir(parents=True, exist_ok=True)
            probe = self.root / ".locks" / f".probe.{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            reason = error.strerror or str(error)
            raise UserError(f"{self.root}: cannot write there ({reason}); choose another folder with --out") from None

    def directory(self, step: Step) -> Path:
        return self.root / step.name

    def partial(self, step: Step) -> Path:
        return self.root / f"{step.name}.partial"

    def scratch(self, group: str) -> Path:
        """A folder that outlives an interruption: checkpoints, and how far the work is."""
        return self.root / ".scratch" / group

    def done(self, step: Step) -> bool:
        """Whether the step was finished; :meth:`verify` tells whether it is still whole."""
        return self.directory(step).is_dir()

    def commit(self, step: Step, device: str, seconds: float) -> Path:
        """Makes a filled partial directory the finished step."""
        partial, final = self.partial(step), self.directory(step)
        (partial / MANIFEST).unlink(missing_ok=True)  # of a run that was killed just before the renaming
        for leftover in [f for f in partial.rglob(".*") if f.is_file()]:  # of one that was killed while writing
            leftover.unlink()
        files = {str(f.relative_to(partial)): f for f in sorted(partial.rglob("*")) if f.is_file()}
        manifest = {
            "stage": step.stage,
            "version": step.version,
            "key": step.key,
            "title": step.title,
            "config": step.config,
            "inputs": {name: given.name for name, given in step.inputs.items()},
            "files": {name: {"size": f.stat().st_size, "sha256": sha256(f)} for name, f in files.items()},
            "versions": versions(),
            "device": device,
            "seconds": round(seconds, 3),
        }
        write_whole(partial / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())
        for path in (*files.values(), *{f.parent for f in files.values()}, partial):
            _sync(path)
        partial.rename(final)
        _sync(self.root)
        return final

    def verify(self, step: Step) -> None:
        """A ``ValueError`` of one line names the first file of a finished step that is not as it was written."""
        directory = self.directory(step)
        remedy = f"delete {directory} and run again"
        for name, written in read_manifest(directory)["files"].items():
            file = directory / name
            if not file.is_file():
                raise UserError(f"{file}: the file is missing; {remedy}")
            if file.stat().st_size != written["size"] or sha256(file) != written["sha256"]:
                raise UserError(f"{file}: damaged, not what was written; {remedy}")

    @contextmanager
    def claim(self, group: str) -> Generator[bool]:
        """Whether this run now has a group's work to itself, until the block ends or the process dies."""
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
    """The manifest of a finished step; ``ValueError`` of one line where it is missing or not readable."""
    file = directory / MANIFEST
    try:
        manifest: Any = json.loads(file.read_text())
    except (OSError, ValueError):
        manifest = None
    if not isinstance(manifest, dict) or "files" not in manifest:
        raise UserError(f"{file}: missing or damaged; delete {directory} and run again")
    return cast(dict[str, Any], manifest)


def sha256(file: Path) -> str:
    """The SHA-256 of a file's content, in hex."""
    with file.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def versions() -> dict[str, str]:
    """What the numbers depend on beside the config."""
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
    """Waits until a file or a directory is on the disk, so that no manifest can outlive what it lists."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
