"""A run that several workers share: its plan in ``OUT/.workers/<run>``, next to the logs and states of its workers.

The plan is stored, not the config, so that a worker which starts hours later does what was planned, however the config
file has been edited since.
"""

from __future__ import annotations

import json
import secrets
import shutil
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from socket import gethostname
from typing import Any

from pipelines.config.tables import RuntimeTable
from pipelines.plan import STAGES
from pipelines.steps.external_files import files_of
from pipelines.steps.known_hashes import save_known
from pipelines.steps.step import Step
from pipelines.steps.store import Store
from sae import __version__
from sae.numerics.atomic_write import write_atomically
from sae.registry import UserError, plugin_files

WORKERS = ".workers"
"""Folder in the folder of all steps, with one folder for each run by workers."""
PLAN = "plan.json"
"""File in the folder of such a run that holds its plan."""
_MOST_RUNS = 20
"""Runs whose logs are kept."""


@dataclass(frozen=True)
class SharedRun:
    """A planned run that several workers share."""

    folder: Path
    """Its folder, ``OUT/.workers/<run>``."""
    name: str
    """The name of its config."""
    steps: Sequence[Step]
    """Its steps in the order of the work."""
    table: RuntimeTable
    """How the work is done."""
    plugins: Sequence[Path]
    """Files with kinds of the user's own."""
    cwd: Path
    """The working directory to which relative paths in the steps refer."""

    @property
    def store(self) -> Store:
        """The folder of all steps."""
        return Store(self.folder.parents[1])

    def pending(self) -> list[Step]:
        """The steps that are not done."""
        return [step for step in self.steps if not self.store.done(step)]

    @classmethod
    def create(cls, name: str, steps: Sequence[Step], table: RuntimeTable, root: Path) -> SharedRun:
        """Writes the plan of a run for its workers.

        Raises `UserError` where the folder cannot be written, or where a kind exists only in this process.
        """
        plugins = plugin_files({kind for step in steps for kind in step.config.get("plugins", {})})
        store = Store(root.absolute())
        store.create()
        save_known(store.root, files_of(steps))  # so that no worker reads large files which this process has hashed
        _remove_old(store.root / WORKERS)
        folder = store.root / WORKERS / f"{time.strftime('%Y-%m-%dT%H.%M.%S')}-{secrets.token_hex(2)}"
        folder.mkdir(parents=True)
        run = cls(folder, name, list(steps), table, plugins, Path.cwd())
        write_atomically(folder / PLAN, json.dumps(run._content(), indent=1).encode())
        return run

    @classmethod
    def read(cls, folder: Path) -> SharedRun:
        """The run whose plan is in a folder.

        Raises `UserError` where there is none, as on a machine that does not see the folder of the run, or where the
        package there is another.
        """
        try:
            content: Any = json.loads((folder / PLAN).read_bytes())
        except OSError as error:
            raise UserError(
                f"{folder}: not readable on {gethostname()} ({error.strerror}); workers need an output folder on "
                "storage that all machines see: choose it with --out"
            ) from None
        if content["sae"] != __version__:
            raise UserError(
                f"sae {__version__}: the run was planned by sae {content['sae']}; install the same version on every "
                "machine"
            )
        plugins = [Path(file) for file in content["plugins"]]
        steps, table = _steps(content["steps"]), RuntimeTable(**content["runtime"])
        return cls(folder, content["name"], steps, table, plugins, Path(content["cwd"]))

    def _content(self) -> Mapping[str, Any]:
        every: dict[str, Step] = {}
        for step in self.steps:
            _add(step, every)
        return {
            "name": self.name,
            "sae": __version__,
            "cwd": str(self.cwd),
            "plugins": [str(file) for file in self.plugins],
            "runtime": self.table.model_dump(mode="json"),
            "steps": [_entry(step) for step in every.values()],
        }


def without(steps: Sequence[Step], names: Collection[str]) -> list[Step]:
    """The steps without those of the given names and without all that depend on them."""
    kept: list[Step] = []
    gone = set(names)
    for step in steps:  # inputs come first
        if step.name in gone or any(source.name in gone for source in step.inputs.values()):
            gone.add(step.name)
        else:
            kept.append(step)
    return kept


def _add(step: Step, every: dict[str, Step]) -> None:
    """Adds a step after its inputs."""
    if step.name not in every:
        for source in step.inputs.values():
            _add(source, every)
        every[step.name] = step


def _entry(step: Step) -> dict[str, Any]:
    return {
        "name": step.name,
        "stage": step.stage,
        "version": step.version,
        "config": step.config,
        "inputs": {name: source.name for name, source in step.inputs.items()},
        "group": step.group,
        "title": step.title,
    }


def _steps(entries: Iterable[Mapping[str, Any]]) -> list[Step]:
    """The steps of a stored plan."""
    made: dict[str, Step] = {}
    for entry in entries:
        fields = {name: entry[name] for name in ("stage", "version", "config", "group", "title")}
        step = Step(**fields, inputs={name: made[source] for name, source in entry["inputs"].items()})
        if step.name != entry["name"] or step.version != STAGES[step.stage].VERSION:
            raise UserError(f"{entry['name']}: planned by another version of sae; install the same on every machine")
        made[step.name] = step
    return list(made.values())


def run_folders(root: Path) -> list[Path]:
    """The folders of the runs by workers in a folder of steps, the oldest first."""
    return sorted(file.parent for file in (root / WORKERS).glob(f"*/{PLAN}"))


def name_of(folder: Path) -> str:
    """The name of the config of a run by workers."""
    return json.loads((folder / PLAN).read_bytes())["name"]


def _remove_old(folder: Path) -> None:
    """Removes the logs of the oldest runs; those of a day are kept, since one of them may still go on."""
    for old in run_folders(folder.parent)[:-_MOST_RUNS]:
        if time.time() - max(file.stat().st_mtime for file in old.iterdir()) > 24 * 3600:
            shutil.rmtree(old, ignore_errors=True)
