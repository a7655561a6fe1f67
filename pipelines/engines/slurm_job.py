"""What a job of a Slurm cluster runs: a worker as a process, which it ends in time when the job has to go.

submitit loads this module in every job, so it imports nothing heavy.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from pipelines.engines.process import RESTARTS, cores, start_process

_LEAVE_SECONDS = 60.0
"""How long a worker may take to save its state when its job has to go; Slurm's signal comes `SIGNAL_SECONDS` before."""
SIGNAL_SECONDS = 90
"""Seconds between the signal and the end of a job."""
KILL_SECONDS = 300.0
"""How long a job whose worker was asked to stop waits for Slurm to end it. A job that ended by itself would not come
back from the queue."""
_ENDED = (0, 1, 2)
"""Exit codes of a worker that has nothing left to do, or has failed."""
_STOPPED = (143, -signal.SIGTERM)
"""Exit codes of a worker that was asked to stop."""


class WorkerJob:
    """Runs the workers of a run, one a call. A worker has no state but what is on disk, so that a job that comes back
    from the queue just starts it again."""

    def __init__(self, folder: Path, threads: int | None) -> None:
        self.folder, self.threads = folder, threads
        self._pid: int | None = None

    def __call__(self, name: str) -> int:
        """Returns the exit code of the worker."""
        threads = self.threads or int(os.environ.get("SLURM_CPUS_PER_TASK") or cores())
        environment = import_module("submitit").JobEnvironment()
        more = {"SAE_ENGINE": "slurm", "SAE_JOB": environment.job_id}
        code = None
        for _ in range(1 + RESTARTS):
            process = start_process(self.folder, name, threads, more)
            self._pid = process.pid
            while (code := process.poll()) is None:  # wait() would hold a lock that `checkpoint` may need
                time.sleep(0.2)
            if code in _ENDED:
                break
            if code in _STOPPED:
                time.sleep(KILL_SECONDS)
        return code or 0

    def checkpoint(self, name: str) -> Any:
        """Called before the job has to go: ends the worker, and returns the call that the job makes when it comes
        back."""
        if self._pid is not None:
            _end(self._pid)
        return import_module("submitit.helpers").DelayedSubmission(WorkerJob(self.folder, self.threads), name)


def _end(pid: int) -> None:
    """Asks a child process to end, and kills it where it does not in time."""
    end = time.monotonic() + _LEAVE_SECONDS
    with suppress(ProcessLookupError, ChildProcessError):
        os.kill(pid, signal.SIGTERM)
        while time.monotonic() < end:
            if os.waitpid(pid, os.WNOHANG)[0]:
                return
            time.sleep(0.05)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
