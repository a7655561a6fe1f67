"""A worker as a process: started with its threads and its GPU, and ended when the process that started it ends.

Nothing but the standard library is imported here, because a job of a cluster that only starts a worker uses it too.
"""

from __future__ import annotations

import json
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
    "import sys; sys.path[:] = {path!r}; from pipelines.engines.process import next_task; "
    "from pipelines.engines.worker import run_worker; run_worker(*next_task())"
)
"""The program of a worker: it loads the libraries, and then waits for the line that says what it works on."""
_ready: list[tuple[int | None, subprocess.Popen[bytes]]] = []
"""Workers that were started ahead, with their threads."""


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
    log = folder / f"{name}.log"
    task = json.dumps({"folder": str(folder), "name": name, "log": str(log), "environment": more or {}})
    while _ready:
        pinned, process = _ready.pop()
        if pinned == threads and _pass(task, process):
            return process
        discard(process)
    process = _started(threads, log)
    _pass(task, process)
    return process


def start_ahead(n: int, threads: int | None) -> None:
    """Starts workers that load the libraries while this process is planning what they will do. They end with this
    process, and :func:`start_process` takes those that have the threads that it is asked for."""
    _ready.extend((threads, _started(threads, None)) for _ in range(n))


def discard_ready() -> None:
    """Ends the workers that were started ahead and are not needed."""
    while _ready:
        discard(_ready.pop()[1])


def discard(process: subprocess.Popen[bytes]) -> None:
    """Ends a worker that has nothing to do."""
    process.kill()
    process.wait()
    if process.stdin is not None:
        process.stdin.close()


def next_task() -> tuple[str, str]:
    """The folder of the run and the name of this worker, once its parent has said them; ends the process where it ends
    before. Output goes to the log from here on."""
    line = b""
    while not line.endswith(b"\n"):
        part = os.read(0, 1)
        if not part:
            sys.exit(0)
        line += part
    task = json.loads(line)
    os.environ.update(task["environment"])
    log = os.open(task["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    for stream in (1, 2):
        os.dup2(log, stream)
    return task["folder"], task["name"]


def _started(threads: int | None, log: Path | None) -> subprocess.Popen[bytes]:
    """A worker that waits for its task; what it writes before goes to the log, if it is known."""
    pinned = {} if threads is None else dict.fromkeys(THREADS, str(threads))
    with log.open("ab") if log is not None else open(os.devnull, "ab") as output:
        return subprocess.Popen(
            [sys.executable, "-c", _START.format(path=sys.path)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **pinned, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )


def _pass(task: str, process: subprocess.Popen[bytes]) -> bool:
    """Tells a worker its task; False where it has died."""
    assert process.stdin is not None
    try:
        process.stdin.write(task.encode() + b"\n")
        process.stdin.flush()
    except OSError:
        return False
    return process.poll() is None


def end_process(process: subprocess.Popen[bytes], end: float) -> None:
    """Waits until `end`, a time of `time.monotonic`, for a worker that was asked to stop, which saves its state before,
    and kills it where it has not ended by then."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(max(0.0, end - time.monotonic()))
    process.kill()
    process.wait()


def chosen_threads() -> int | None:
    """The threads that the user has chosen by a variable of the environment; None where there is none."""
    chosen = os.environ.get(THREADS[0], "")
    return int(chosen) if chosen.isdecimal() and int(chosen) > 0 else None


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
