"""Workers as jobs of a Slurm cluster, submitted by submitit as one array.

When the time of a job is up, or when it has to make room for others, Slurm sends it a signal before: its worker saves
its state and leaves, and the job goes back into the queue.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from pipelines.engines.engine import WorkerEngine
from pipelines.engines.shared_run import SharedRun, run_folders
from pipelines.engines.slurm_job import SIGNAL_SECONDS, WorkerJob
from pipelines.engines.worker_state import ENDED, file_system_time, read_states
from pipelines.steps.step import Step
from sae.numerics.atomic_write import write_atomically
from sae.registry import UserError

EXAMPLE = "--slurm partition=gpu,gpus=1,cpus=8,mem=64GB,time=8h"
"""An example for error messages."""
QUEUE_SECONDS = 10.0
"""Seconds between two looks at the queue."""
JOBS = "jobs.json"
"""File in the folder of a run with the numbers of its jobs."""
_REQUEUES = 10_000
"""How often a job goes back into the queue when its time is up, in effect until the work is done."""
_UNITS = {"s": 1 / 60, "sec": 1 / 60, "m": 1.0, "min": 1.0, "h": 60.0, "d": 1440.0}
"""Minutes."""


def read_slurm(text: str) -> dict[str, str]:
    """The options of ``--slurm``: ``name=value`` separated by commas. A value may hold commas in brackets, as in
    ``nodelist=a[1,2]``. Raises `UserError` where it is not of that form."""
    found: dict[str, str] = {}
    for part in re.split(r",(?![^\[]*\])", text):
        name, equals, value = (word.strip() for word in part.partition("="))
        if not re.fullmatch(r"[a-z][a-z-]*", name) or not equals or not value:
            raise UserError(f"--slurm {text}: {part.strip()!r} is not name=value; for example {EXAMPLE}")
        if name in found:
            raise UserError(f"--slurm {text}: {name} is given twice")
        found[name] = value
    parameters_of(found)
    return found


def parameters_of(options: Mapping[str, str]) -> dict[str, Any]:
    """The options in submitit's terms: ``time``, ``cpus`` and ``gpus`` of each job, and any other of sbatch's.

    Raises `UserError` where a value is none, or where nothing says how long a job may run.
    """
    others = {name: value for name, value in options.items() if name not in ("time", "cpus", "gpus")}
    if "time" not in options:
        raise UserError(f"--slurm: say how long a job may run; for example {EXAMPLE}")
    found: dict[str, Any] = {"timeout_min": _minutes(options["time"])}
    if "cpus" in options:
        if not options["cpus"].isdecimal() or int(options["cpus"]) < 1:
            raise UserError(f"--slurm cpus={options['cpus']}: give a whole number, the cores of a job")
        found["cpus_per_task"] = int(options["cpus"])
        found["slurm_srun_args"] = [f"--cpus-per-task={options['cpus']}"]  # which srun no longer takes from sbatch
    if "gpus" in options:
        if not re.fullmatch(r"([\w.-]+:)?\d+", options["gpus"]):
            raise UserError(f"--slurm gpus={options['gpus']}: give a whole number, or a kind and a number: a100:1")
        others["gpus-per-node"] = options["gpus"]
    # A node that is taken away, or breaks, sends its job back into the queue, where the cluster allows it.
    found["slurm_additional_parameters"] = {"requeue": True, **others}
    return found


def _minutes(text: str) -> int:
    """The minutes of ``8h``, ``90min``, ``2d``, or of Slurm's own ``[days-]hours:minutes:seconds``."""
    if match := re.fullmatch(r"(\d+(?:\.\d+)?)(s|sec|m|min|h|d)", text):
        minutes = float(match[1]) * _UNITS[match[2]]
    elif match := re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d)(?::(\d\d))?", text):
        days, first, second, third = (int(part or 0) for part in match.groups())
        # Slurm reads two numbers as minutes and seconds, after a number of days as hours and minutes.
        is_short = match[4] is None and match[1] is None
        minutes = first + second / 60 if is_short else days * 1440 + first * 60 + second + third / 60
    else:
        raise UserError(f"--slurm time={text}: is not a time; write 8h, 90min, 2d or 1-12:00:00")
    if minutes < 1:
        raise UserError(f"--slurm time={text}: less than a minute; give a job at least one")
    return int(minutes)


class SlurmEngine(WorkerEngine):
    """Submits jobs, which stay in the queue when the command ends before them."""

    name: ClassVar[str] = "slurm"

    def __init__(self, options: Mapping[str, str], detaches: bool = False, cluster: str = "slurm") -> None:
        """`cluster` ``local`` starts the jobs as processes of this machine, without Slurm, as tests do.

        Raises `UserError` where submitit is not installed.
        """
        try:
            submitit: Any = import_module("submitit")
        except ImportError:
            raise UserError("--on slurm: submitit is not installed; pip install submitit") from None
        self._submitit, self._cluster, self.detaches = submitit, cluster, detaches
        self._parameters = parameters_of(options)
        self._jobs: list[Any] = []
        self._ids: list[str] = []
        self._is_over = False
        self._in_queue, self._asked_at = 0, -QUEUE_SECONDS

    def rejoin(self, steps: Sequence[Step], root: Path) -> SharedRun | None:
        for folder in reversed(run_folders(root)):
            if not (folder / JOBS).is_file():
                continue
            run = SharedRun.read(folder)
            self._ids = json.loads((folder / JOBS).read_bytes())
            if {step.name for step in steps} <= {step.name for step in run.steps} and self._count():
                return run
            self._ids = []
        return None

    def start(self, run: SharedRun, n: int) -> None:
        self._run = run
        if self._ids:
            return
        try:
            executor = self._submitit.AutoExecutor(
                run.folder / "jobs", self._cluster, slurm_max_num_timeout=_REQUEUES, local_max_num_timeout=_REQUEUES
            )
        except RuntimeError:
            raise UserError(
                "--on slurm: there is no Slurm here (no srun); run the command on a login node of the cluster"
            ) from None
        executor.update_parameters(
            name=f"sae-{run.name}",
            slurm_signal_delay_s=SIGNAL_SECONDS,
            slurm_array_parallelism=n,
            stderr_to_stdout=True,
            **self._parameters,
        )
        job = WorkerJob(run.folder, run.table.threads)
        try:
            self._jobs = list(executor.map_array(job, [str(i + 1) for i in range(n)]))
        except self._submitit.core.utils.FailedJobError as error:
            lines = [line for line in str(error).splitlines() if "sbatch" in line] or [str(error)]
            raise UserError(f"--on slurm: {' '.join(lines[-1].split())}") from None
        self._ids = list(dict.fromkeys(str(job.job_id).split("_")[0] for job in self._jobs))
        if self._cluster == "slurm":
            write_atomically(run.folder / JOBS, json.dumps(self._ids).encode())

    def tend(self, is_pending: bool) -> int:
        if is_pending:
            if time.monotonic() - self._asked_at >= QUEUE_SECONDS:
                self._asked_at, self._in_queue = time.monotonic(), self._count()
            return self._in_queue
        now = file_system_time(self._run.folder)
        states = read_states(self._run.folder)
        leaving = sum(s.activity not in ENDED and s.is_alive(self._run.folder, now) for s in states)
        self._is_over = not leaving
        return leaving

    def _count(self) -> int:
        """The number of jobs that wait or run. Slurm's accounting, which submitit asks, is not there on every
        cluster; the queue is."""
        if self._cluster != "slurm":
            return sum(not job.done() for job in self._jobs)
        command = ["squeue", "--noheader", "--array", "--format=%i", "--job", ",".join(self._ids)]
        asked = subprocess.run(command, capture_output=True, text=True, check=False)
        if asked.returncode == 0:
            return len(asked.stdout.split())
        return 0 if "Invalid job id" in asked.stderr else len(self._ids)  # or the queue does not answer at present

    def stop(self) -> str:
        if not self._ids or self._cluster != "slurm":
            return ""
        ids = " ".join(self._ids)
        if self._is_over:  # those that have started find nothing to do and leave
            subprocess.run(["scancel", "--state=PENDING", *self._ids], capture_output=True, check=False)
            return ""
        return (
            f"jobs {ids} go on; to see them: sae status, or squeue --job {ids.replace(' ', ',')}; to cancel them: "
            f"scancel {ids}; to wait for the scores: the same command again"
        )

    def lost(self) -> list[str]:
        return [f"the jobs {' '.join(self._ids)} ended before the work was done; logs: {self._run.folder}"]
