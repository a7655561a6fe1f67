"""What each worker of a run is doing, in a file next to its log, for the command that started it and ``sae status``."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from socket import gethostname
from typing import Literal

from pydantic import TypeAdapter

from pipelines.steps.progress import read_status
from pipelines.steps.store import Store
from sae.numerics.atomic_write import write_atomically
from sae.numerics.progress_line import duration

BEAT_SECONDS = 5.0
"""Seconds between two signs of life of a worker."""
SILENT_SECONDS = 30.0
"""A worker of another machine that has given no sign of life for so long is taken for dead."""

WorkerActivity = Literal["starting", "working", "waiting", "done", "failed", "stopped"]
"""`waiting` workers have no step that could be worked on; the last three have ended."""
ENDED = frozenset({"done", "failed", "stopped"})
"""Activities of workers that have left."""


@dataclass
class FailedStep:
    """A group of steps that a worker could not do."""

    steps: list[str]
    """Names of the steps; empty where the error arose outside of a step."""
    title: str
    """What was worked on, for people."""
    error: str
    """The error in one line."""
    is_mistake: bool
    """Whether it is a mistake of the user, which no other worker can do better."""
    log: str
    """The file with the traceback."""


@dataclass
class WorkerState:
    """What a worker is doing."""

    name: str
    """Its number."""
    engine: str
    """The engine that started it: ``local``, ``slurm`` or ``ray``."""
    log: str
    """The file that holds its output."""
    job: str = ""
    """Its number in the cluster's queue; empty for a process of this machine."""
    host: str = field(default_factory=gethostname)
    """The machine on which it runs."""
    pid: int = field(default_factory=os.getpid)
    """Its process there."""
    activity: WorkerActivity = "starting"
    """What it does."""
    title: str = ""
    """The steps that it works on, for people."""
    group: str = ""
    """The scratch folder of these steps."""
    since: float = field(default_factory=time.time)
    """When it began with it, in seconds since 1970 by the clock of its machine."""
    failures: list[FailedStep] = field(default_factory=list[FailedStep])
    """What it could not do."""

    def write(self, folder: Path) -> None:
        """Writes the state as JSON, atomically."""
        write_atomically(folder / f"{self.name}.json", (json.dumps(asdict(self)) + "\n").encode())

    def is_alive(self, folder: Path, now: float) -> bool:
        """Whether it is at work: a process of this machine exists, one of another has given a sign of life before
        `now`, a time of the file system."""
        if self.activity in ENDED:
            return False
        if self.host == gethostname() and os.name != "nt":
            try:
                os.kill(self.pid, 0)
            except ProcessLookupError:
                return False
            except PermissionError:  # the process of another user
                pass
            return True
        with suppress(OSError):
            return now - (folder / f"{self.name}.json").stat().st_mtime < SILENT_SECONDS
        return False

    def line(self, store: Store, is_alive: bool) -> str:
        """One line, e.g. ``worker 2 (local, host a, process 71): train: relu: 10/60 steps, for 12 s``."""
        job = f", job {self.job}" if self.job else ""
        place = f"worker {self.name} ({self.engine}{job}, host {self.host}, process {self.pid})"
        age = duration(max(0.0, time.time() - self.since))
        if self.activity in ENDED:
            failed = f" {len(self.failures)} of its steps: {self.failures[0].error}" if self.failures else ""
            return f"{place}: {self.activity}{failed}, {age} ago"
        doing = self.activity
        if self.activity == "working":
            status = read_status(store.scratch(self.group))
            doing = f"{self.title}: {status.line()}" if status else self.title
        return f"{place}: {doing}, for {age}" if is_alive else f"{place}: died, {age} after it began with: {doing}"


def read_states(folder: Path) -> list[WorkerState]:
    """The states of the workers of a run that have started, by number; unreadable ones are left out, because nothing
    but what is shown depends on them."""
    found: list[WorkerState] = []
    for file in folder.glob("[0-9]*.json"):
        with suppress(OSError, ValueError):
            found.append(TypeAdapter(WorkerState).validate_json(file.read_bytes()))
    return sorted(found, key=lambda state: int(state.name))


def file_system_time(folder: Path) -> float:
    """The time by the clock of the file system, from which those of machines may differ; that of this machine where
    the folder can only be read."""
    probe = folder / f".time.{gethostname()}.{os.getpid()}"
    try:
        probe.touch()
        now = probe.stat().st_mtime
        probe.unlink(missing_ok=True)
    except OSError:
        return time.time()
    return now


def failures_of(states: Sequence[WorkerState]) -> list[FailedStep]:
    """The failures of several workers, one for each group of steps."""
    found: dict[tuple[str, ...], FailedStep] = {}
    for failure in (each for state in states for each in state.failures):
        found.setdefault(tuple(failure.steps), failure)
    return list(found.values())
