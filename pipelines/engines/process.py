"""A worker as a process: started with its threads and its GPU, and ended when the process that started it ends.

Nothing but the standard library is imported here, because a job of a cluster that only starts a worker uses it too.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
"""The variables by which libraries choose their threads when they are imported."""
RESTARTS = 3
"""How often a worker that died is started again."""
_START = (
    "import sys; sys.path[:] = {path!r}; from pipelines.engines.worker import run_worker; "
    "run_worker({folder!r}, {name!r})"
)


def start_process(
    folder: Path, name: str, threads: int | None, more: dict[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Starts a worker of the run in `folder`, by its `name`, whose log takes everything that it writes.

    Parameters
    ----------
    threads
        Threads of its libraries; None leaves them as they are in this process.
    more
        Further variables of its environment.

    It is in a session of its own, so that Ctrl-C in a terminal reaches only this process. Its stdin is a pipe: when
    this process ends, however it ends, the pipe is closed, and the worker stops.
    """
    pinned = {} if threads is None else dict.fromkeys(THREADS, str(threads))
    with (folder / f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-c", _START.format(path=sys.path, folder=str(folder), name=name)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **pinned, "PYTHONUNBUFFERED": "1", **(more or {})},
            start_new_session=True,
        )


def end_process(process: subprocess.Popen[bytes], end: float) -> None:
    """Waits until `end`, a time of `time.monotonic`, for a worker that was asked to stop, which saves its state before,
    and kills it where it has not ended by then."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(max(0.0, end - time.monotonic()))
    process.kill()
    process.wait()


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
