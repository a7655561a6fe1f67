"""Files outside the run that steps read: each is hashed when a run is planned, and checked again around its reading."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from pipelines.steps.known_hashes import known_sha256
from pipelines.steps.manifest import unreadable, verify
from pipelines.steps.source_steps import model_settings, open_step, settings
from pipelines.steps.step import Step
from sae.probing import TaskSettings
from sae.probing.sources import other_files
from sae.registry import MissingFileError, UserError
from sae.source import Source


def content_hash(file: Path, field: str) -> str:
    """The SHA-256 of an external file; a file that has not changed is read once.

    Raises `MissingFileError` if there is no such file and `UserError` if it cannot be read; `field` is the setting that
    names it.
    """
    try:
        if not file.is_file():
            raise MissingFileError(f"{field} = {str(file)!r}: does not exist or is not a file; correct the path")
        return known_sha256(file)
    except MissingFileError:
        raise
    except OSError as error:
        raise unreadable(f"{field} = {str(file)!r}", error) from None


def refuse_changed(step: Step) -> None:
    """Raises `UserError` where a file that the step reads is not the one with which the run was planned.

    The runner calls it before a step is worked on and before it is finished, so that what is stored under a key was
    computed from the content that the key stands for.
    """
    files, table = _read_by(step)
    if table:
        _compare(files, step.config["files"], table)
    if "source" in step.inputs:  # not the report: it draws what is in the directories of steps
        refuse_changed_since_prepared(step.inputs["source"])


def files_of(steps: Iterable[Step]) -> list[Path]:
    """The external files that steps read."""
    return [file for step in steps for file in _read_by(step)[0].values()]


def _read_by(step: Step) -> tuple[Mapping[str, Path], str]:
    """The external files of a step by name, and the table of a config that names them; none for most steps."""
    if "source" in step.config:
        return settings(step.config["source"]).external_files(), "source"
    if step.stage == "model":
        return model_settings(step.config).external_files(), "source"
    if "tasks" in step.config:
        source = settings(step.inputs["source"].config["source"])
        return other_files(source, TaskSettings(**step.config["tasks"])), "probe.tasks"
    return {}, ""


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

    Raises `UserError` where the step is damaged, or a file that it reads is not the one with which the run was planned.
    """
    verify(source, directory, whole=True)
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
