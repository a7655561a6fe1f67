"""Manifests of finished steps: what was made of what, with the hash of every file; checks of a folder against it."""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from pipelines.steps.checksums import sha256
from pipelines.steps.known_hashes import LARGE_FILE, known_sha256, load_step, read_sha256, sha256_now
from pipelines.steps.step import Step
from sae.activations.shards import checks_itself
from sae.numerics.atomic_write import write_atomically
from sae.registry import UserError

MANIFEST = "manifest.json"
"""File in a step's directory with its config, inputs and the hash of every file."""
_OWN_HASH = "sha256"
_UNHASHED = {"stage", "version", "key", "title", "config", "inputs", "files", "versions", "device", "seconds"}
"""The entries of a manifest that has no hash of its own, as earlier versions wrote it."""


def write_manifest(directory: Path, manifest: Mapping[str, Any]) -> None:
    """Writes a manifest with its own hash."""
    content = {**manifest, _OWN_HASH: hash_of(manifest)}
    write_atomically(directory / MANIFEST, (json.dumps(content, indent=1) + "\n").encode())


def verify(step: Step, directory: Path, whole: bool = False) -> None:
    """Checks that the directory of a finished step holds this step, complete and undamaged.

    Small files are read. Large ones are read if they have changed since their hash was last known; with `whole`, for a
    step that is about to be used, all are read once by this process, but for shards, which check what is read of them.
    Raises `UserError` naming the folder or file, what is wrong with it and what to do.
    """
    manifest = read_manifest(directory)
    _refuse_other_step(step, directory, manifest)
    _refuse_edited(directory, manifest)
    load_step(directory)
    _verify_files(directory, manifest["files"], _hash_when_used if whole else _hash_at_start)


def is_step_name(name: str) -> bool:
    """Whether a folder has the name of a finished step."""
    return re.fullmatch(r"[a-z]+-[0-9a-f]{16}", name) is not None


def verify_folder(directory: Path) -> None:
    """Checks the directory of a finished step against its manifest, reading every file.

    Raises `UserError` as :func:`verify` does.
    """
    manifest = read_manifest(directory)
    name = f"{manifest.get('stage')}-{manifest.get('key')}"
    if directory.name != name:
        raise UserError(f"{directory}: its manifest is that of {name}; rename the folder back, or {_remedy(directory)}")
    _refuse_edited(directory, manifest)
    _verify_files(directory, manifest["files"], read_sha256)


def _hash_at_start(file: Path) -> str:
    return sha256(file) if file.stat().st_size < LARGE_FILE else known_sha256(file)


def _hash_when_used(file: Path) -> str:
    is_read = file.stat().st_size < LARGE_FILE or not checks_itself(file)
    return sha256_now(file) if is_read else known_sha256(file)


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
    is_whole = isinstance(manifest, dict) and {"config", "inputs", "files"} <= manifest.keys()
    if not is_whole or not isinstance(manifest["inputs"], dict):
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


def _verify_files(directory: Path, written: Any, hash_file: Callable[[Path], str]) -> None:
    """Raises `UserError` where the files of a step are not those of its manifest. Hidden files are not part of it."""
    try:
        _compare_files(directory, written, hash_file)
    except OSError as error:
        raise unreadable(error.filename or directory, error) from None


def _compare_files(directory: Path, written: Any, hash_file: Callable[[Path], str]) -> None:
    if not isinstance(written, dict):
        raise UserError(f"{directory}: its manifest lists no files; {_remedy(directory)}")
    there = {f.relative_to(directory).as_posix() for f in directory.rglob("*") if f.is_file() and not _hidden(f)}
    listed = cast(dict[str, Any], written)
    for name in sorted(there - listed.keys() - {MANIFEST}):
        raise UserError(
            f"{directory / name}: not listed in the manifest of its step; move it away, or {_remedy(directory)}"
        )
    for name, entry in listed.items():
        file = directory / name
        if name not in there:
            raise UserError(f"{file}: the file is missing; {_remedy(directory)}")
        _verify_file(directory, name, entry, hash_file)


def refuse_damaged(directory: Path, manifest: Mapping[str, Any], names: tuple[str, ...]) -> None:
    """Raises `UserError` where the manifest of a step is damaged, or a file that it lists and that begins with one of
    these names: for what shows a part of a step."""
    if _OWN_HASH in manifest:
        _refuse_edited(directory, manifest)
    listed = cast(dict[str, Any], manifest["files"]) if isinstance(manifest["files"], dict) else {}
    for name, entry in listed.items():
        if name.startswith(names) and (directory / name).is_file():
            _verify_file(directory, name, entry, sha256)


def _verify_file(directory: Path, name: str, entry: Any, hash_file: Callable[[Path], str]) -> None:
    file = directory / name
    size = file.stat().st_size
    is_sized = isinstance(entry, dict) and entry.get("size") == size
    if not is_sized or entry != {"size": size, "sha256": hash_file(file)}:
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
