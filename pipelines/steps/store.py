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
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pipelines.steps.checksums import CHECKSUMS, changed_since_recorded, sha256
from pipelines.steps.step import Step
from sae.numerics.atomic_write import named_errors, write_atomically
from sae.registry import UserError

MANIFEST = "manifest.json"
"""File in a step's directory with its config, inputs and the hash of every file."""
_OWN_HASH = "sha256"
_UNHASHED = {"stage", "version", "key", "title", "config", "inputs", "files", "versions", "device", "seconds"}
"""The entries of a manifest that has no hash of its own, as earlier versions wrote it."""


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
        """Writes the manifest of a filled partial directory and renames it to the finished step.

        Raises `UserError` where a file has changed on disk since it was written.
        """
        partial, final = self.partial(step), self.directory(step)
        (partial / MANIFEST).unlink(missing_ok=True)  # of a run that was killed just before renaming
        for leftover in [f for f in partial.rglob(".*") if f.is_file() and f.name != CHECKSUMS]:
            leftover.unlink()  # of a run that was killed while writing
        found = [f for f in sorted(partial.rglob("*")) if f.is_file() and f.name != CHECKSUMS]
        files = {f.relative_to(partial).as_posix(): f for f in found}
        hashes = {name: sha256(file) for name, file in files.items()}
        for name in changed_since_recorded(partial, hashes):
            raise UserError(f"{partial / name}: changed on disk after it was written; run again, it is made again")
        manifest = {
            "stage": step.stage,
            "version": step.version,
            "key": step.key,
            "title": step.title,
            "config": step.config,
            "inputs": {name: source.name for name, source in step.inputs.items()},
            "files": {name: {"size": f.stat().st_size, "sha256": hashes[name]} for name, f in files.items()},
            "versions": versions(),
            "device": device,
            "seconds": round(seconds, 3),
        }
        manifest[_OWN_HASH] = hash_of(manifest)
        write_atomically(partial / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())
        _make_modes_alike(partial / MANIFEST, files.values())
        for path in (*files.values(), *{f.parent for f in files.values()}, partial):
            _sync(path)
        partial.rename(final)
        (final / CHECKSUMS).unlink(missing_ok=True)  # not before: without it, a killed run would start anew
        _sync(self.root)
        return final

    def verify(self, step: Step) -> None:
        """Checks that a finished step's directory holds this step, whole and undamaged.

        Raises `UserError` naming the folder or file, what is wrong with it and what to do.
        """
        directory = self.directory(step)
        manifest = read_manifest(directory)
        _refuse_other_step(step, directory, manifest)
        _refuse_edited(directory, manifest)
        try:
            _verify_files(directory, manifest["files"])
        except OSError as error:
            raise unreadable(error.filename or directory, error) from None

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
    """The manifest of a finished step. Raises `UserError` where it is missing, damaged or cannot be read."""
    file = directory / MANIFEST
    manifest: Any = None
    try:
        manifest = json.loads(file.read_bytes())
    except (FileNotFoundError, ValueError, RecursionError):
        pass
    except OSError as error:
        raise unreadable(file, error) from None
    if not isinstance(manifest, dict) or not {"config", "inputs", "files"} <= manifest.keys():
        raise UserError(f"{file}: missing or damaged; {_remedy(directory)}")
    return cast(dict[str, Any], manifest)


def _remedy(directory: Path) -> str:
    return f"delete {directory} and run again"


def unreadable(what: object, error: OSError) -> UserError:
    """The error for a file that exists but cannot be read, which is no reason to delete it."""
    return UserError(f"{what}: cannot be read ({error.strerror or error}); make it readable and run again")


def _refuse_other_step(step: Step, directory: Path, manifest: Mapping[str, Any]) -> None:
    """Raises `UserError` where a manifest is not that of the step: the folder was renamed, or the manifest changed."""
    inputs = {name: source.name for name, source in step.inputs.items()}
    expected = {"key": step.key, "stage": step.stage, "version": step.version, "config": step.config, "inputs": inputs}
    if manifest.get("key") != step.key:
        other = f"{manifest.get('stage')}-{manifest.get('key')}"
        raise UserError(
            f"{directory}: its manifest is that of another step, {other} (key differs); rename the folder back, or "
            f"{_remedy(directory)}"
        )
    for name, value in expected.items():
        if _as_json(manifest.get(name)) != _as_json(value):
            raise UserError(f"{directory}: `{name}` in its manifest is not that of this step; {_remedy(directory)}")


def _refuse_edited(directory: Path, manifest: Mapping[str, Any]) -> None:
    """Raises `UserError` where a manifest was changed since it was written.

    A manifest of an earlier version has no hash, but then it has the entries of that version and no others.
    """
    if set(manifest) != _UNHASHED and manifest.get(_OWN_HASH) != hash_of(manifest):
        raise UserError(f"{directory / MANIFEST}: damaged, its own hash differs; {_remedy(directory)}")


def hash_of(manifest: Mapping[str, Any]) -> str:
    """The SHA-256 of a manifest without its own hash."""
    rest = {name: value for name, value in manifest.items() if name != _OWN_HASH}
    return hashlib.sha256(_as_json(rest).encode()).hexdigest()


def _as_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _verify_files(directory: Path, written: Any) -> None:
    """Raises `UserError` where the files of a step are not those of its manifest. Hidden files are not part of it."""
    there = {f.relative_to(directory).as_posix() for f in directory.rglob("*") if f.is_file() and not _hidden(f)}
    listed = cast(dict[str, Any], written) if isinstance(written, dict) else {}
    for name in sorted(there - listed.keys() - {MANIFEST}):
        raise UserError(
            f"{directory / name}: not listed in the manifest of its step; move it away, or {_remedy(directory)}"
        )
    if not listed:
        raise UserError(f"{directory}: its manifest lists no files; {_remedy(directory)}")
    for name, entry in listed.items():
        file = directory / name
        if name not in there:
            raise UserError(f"{file}: the file is missing; {_remedy(directory)}")
        _verify_file(directory, name, entry)


def refuse_damaged(directory: Path, manifest: Mapping[str, Any], names: tuple[str, ...]) -> None:
    """Raises `UserError` where a file of a step that is listed in its manifest, and begins with one of these names, is
    damaged: for what shows a part of a step."""
    listed = cast(dict[str, Any], manifest["files"]) if isinstance(manifest["files"], dict) else {}
    for name, entry in listed.items():
        if name.startswith(names) and (directory / name).is_file():
            _verify_file(directory, name, entry)


def _verify_file(directory: Path, name: str, entry: Any) -> None:
    file = directory / name
    if entry != {"size": file.stat().st_size, "sha256": sha256(file)}:
        raise UserError(f"{file}: damaged, its hash differs from the manifest; {_remedy(directory)}")


def _hidden(file: Path) -> bool:
    return file.name.startswith(".")


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


def _make_modes_alike(file: Path, others: Iterable[Path]) -> None:
    """Gives files the permissions of `file`; some libraries create files that only their owner can read."""
    mode = file.stat().st_mode
    for other in others:
        if not other.is_symlink() and other.stat().st_mode != mode:
            with suppress(PermissionError):  # the file of another user, in a folder that is shared
                other.chmod(mode)


def _sync(path: Path) -> None:
    """Flushes a file or directory to disk, so that no manifest can survive a power cut without the files it lists.

    Windows cannot open a directory, and flushes only files that are open for writing.
    """
    if sys.platform == "win32" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        with named_errors(path):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
