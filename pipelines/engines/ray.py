"""Groups of steps as tasks of a Ray cluster, or of one on this machine: each ready group is a task, with a GPU where it
needs one.

The tasks work on the folder of steps, which must be on storage that all nodes see. Ray starts a task again whose node
or process has died.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from socket import create_connection, gethostname
from typing import Any, ClassVar

from pipelines.engines.engine import WorkerEngine
from pipelines.engines.resources import needs_gpu
from pipelines.engines.shared_run import SharedRun, without
from pipelines.engines.worker_state import FailedStep
from pipelines.runner import ready
from pipelines.steps.step import Step
from sae.registry import UserError

RETRIES = 3
"""How often Ray starts a task again whose process or node has died."""
ATTEMPTS = 3
"""How often a group is tried that fails by an error which is not a mistake of the user."""
CONNECT_SECONDS = 10.0
"""How long a cluster may take to answer."""
LOOK_SECONDS = 2.0
"""Seconds between two looks at the folder for groups that are ready, beside those when a task has ended."""
_LEAVE_SECONDS = 30.0
"""How long a task that is cancelled may take."""


class RayEngine(WorkerEngine):
    """Submits each group of steps when its inputs are done, at most as many at once as there are workers."""

    name: ClassVar[str] = "ray"

    def __init__(self, address: str | None, gpus_per_step: float | None) -> None:
        """Raises `UserError` where Ray is not installed."""
        try:
            ray: Any = import_module("ray")
        except ImportError:
            raise UserError("--on ray: Ray is not installed; pip install ray") from None
        self._ray, self._address, self._gpus = ray, address, gpus_per_step
        self._running: dict[Any, tuple[str, str]] = {}
        self._attempts: dict[str, int] = {}
        self._failed: list[FailedStep] = []
        self._started = False
        self._looked_at = -LOOK_SECONDS

    def start(self, run: SharedRun, n: int) -> None:
        if not self._ray.is_initialized():
            _refuse_silent(self._address)
            try:
                self._ray.init(self._address, log_to_driver=False, logging_level="ERROR")
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise UserError(f"--address {self._address}: {' '.join(str(error).split())}") from None
            self._started = True
        if self._gpus is None:
            self._gpus = 1.0 if self._ray.cluster_resources().get("GPU", 0) >= 1 else 0.0
        self._run, self._left = run, list(run.steps)
        self._free = [str(i + 1) for i in range(n)]

    def tend(self, is_pending: bool) -> int:
        finished, _ = self._ray.wait(list(self._running), timeout=0) if self._running else ([], [])
        for task in finished:
            self._finish(task)
        if is_pending and self._free and (finished or time.monotonic() - self._looked_at >= LOOK_SECONDS):
            self._looked_at = time.monotonic()
            pending = [step for step in self._left if not self._run.store.done(step)]
            busy = {group for group, _ in self._running.values()}
            for group, steps in ready(pending, self._run.store.done).items():
                if self._free and group not in busy:
                    self._submit(group, steps)
        return len(self._running)

    def _submit(self, group: str, steps: list[Step]) -> None:
        worker = self._free.pop(0)
        table = self._run.table
        task = self._ray.remote(work_on_group).options(
            name=f"{steps[0].stage}: {steps[0].title}",
            num_cpus=table.threads or 1,
            num_gpus=self._gpus if any(needs_gpu(step) for step in steps) else 0,
            max_retries=RETRIES,
        )
        self._running[task.remote(str(self._run.folder), worker, group)] = (group, worker)

    def _finish(self, task: Any) -> None:
        """Takes note of how a task ended. A bug may be one of the node, so the group is tried again; its steps, and
        those that need them, are given up when it fails again and again."""
        group, worker = self._running.pop(task)
        self._free.insert(0, worker)
        try:
            failures = [FailedStep(**each) for each in self._ray.get(task)]
        except self._ray.exceptions.RayError as error:  # its process died again and again, or its node was lost
            failures = [
                FailedStep([], group, " ".join(str(error).split()), False, str(self._run.folder / f"{worker}.log"))
            ]
        self._attempts[group] = self._attempts.get(group, 0) + 1
        if not failures or (not any(f.is_mistake for f in failures) and self._attempts[group] < ATTEMPTS):
            return
        self._failed += failures
        of_group = [step.name for step in self._left if (step.group or step.name) == group]
        self._left = without(self._left, [name for name in of_group if not (self._run.store.root / name).is_dir()])

    def stop(self) -> str:
        for task in self._running:
            self._ray.cancel(task)
        if self._running:
            self._ray.wait(list(self._running), num_returns=len(self._running), timeout=_LEAVE_SECONDS)
        for task in self._running:
            self._ray.cancel(task, force=True)
        self._running.clear()
        if self._started:
            self._ray.shutdown()
        return ""

    def failures(self, run: SharedRun) -> list[FailedStep]:
        return self._failed


def _refuse_silent(address: str | None) -> None:
    """Raises `UserError` where nothing answers at ``host:port``, which Ray would try for a quarter of an hour."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        return
    try:
        create_connection((host, int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        raise UserError(f"--address {address}: no Ray cluster answers ({error.strerror or error})") from None


def work_on_group(folder: str, name: str, group: str) -> list[Mapping[str, Any]]:
    """The task: does a group of steps of the run in `folder`, and returns what failed.

    What it writes goes to the log of the worker `name`.
    """
    if not Path(folder).is_dir():
        where = f"{folder}: not there on {gethostname()}; the output folder must be on storage that all nodes see"
        return [asdict(FailedStep([], "", f"{where}: choose it with --out", True, ""))]
    from pipelines.engines.worker import work

    with _output_in(Path(folder) / f"{name}.log"):
        try:
            return [asdict(failure) for failure in work(Path(folder), name, "ray", group=group)]
        except UserError as error:
            return [asdict(FailedStep([], group, str(error), True, f"{folder}/{name}.log"))]


@contextmanager
def _output_in(log: Path) -> Generator[None]:
    """Sends what this process writes to a file, also what libraries write past Python."""
    streams = (sys.stdout, sys.stderr)
    before = [os.dup(number) for number in (1, 2)]
    with log.open("ab") as file:
        try:
            for number in (1, 2):
                os.dup2(file.fileno(), number)
            yield
        finally:
            for stream in streams:
                stream.flush()
            for number, kept in zip((1, 2), before, strict=True):
                os.dup2(kept, number)
                os.close(kept)
