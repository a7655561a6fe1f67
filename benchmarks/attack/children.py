"""Runs commands in forked children of one process that has imported everything, so that a trial costs no imports.

Everything here is single-threaded before it forks: `prepare_to_fork` has to be called before torch is imported.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

BUG = 99
"""Exit code of a child whose function raised."""
_POLL_SECONDS = 0.005


def prepare_to_fork() -> None:
    """Keeps numerical libraries from starting threads, which do not survive a fork."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = "1"
    os.environ["NUMBA_THREADING_LAYER"] = "workqueue"  # GNU OpenMP ends a process that was forked
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}


@dataclass(frozen=True)
class Ended:
    """How a child ended."""

    code: int
    """Exit code; the negative signal of a child that was killed."""
    output: str
    """What it printed, on stdout and stderr."""

    @property
    def refusal(self) -> str:
        """The one line with which the command refused; empty where it did not, or not in one line."""
        lines = [line for line in self.output.splitlines() if line.startswith("sae: ")]
        is_last = self.output.rstrip("\n").endswith(lines[-1]) if lines else False
        one_line = len(lines) == 1 and is_last and "Traceback" not in self.output
        return lines[0] if self.code == 2 and one_line else ""

    def told(self) -> str:
        """The end of what it printed, for the report of a failure."""
        how = f"killed by {signal.Signals(-self.code).name}" if self.code < 0 else f"exit code {self.code}"
        return f"{how}: {self.output[-1500:].strip() or 'printed nothing'}"


class Child:
    """A forked process that runs a function, with what it prints in a file.

    `before` is called first, for example to install hooks or limits.
    """

    def __init__(self, work: Callable[[], object], printed: Path, before: Callable[[], object] | None = None) -> None:
        self.printed = printed
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if not self.pid:
            _run(work, printed, before)

    def kill(self) -> None:
        """Kills it, which may have ended already but was not waited for."""
        os.kill(self.pid, signal.SIGKILL)

    def wait(self, seconds: float = 120.0) -> Ended:
        """Waits for its end; one that takes longer is killed."""
        until = time.monotonic() + seconds
        status = 0
        while not (ended := os.waitpid(self.pid, os.WNOHANG))[0]:
            if time.monotonic() > until:
                self.kill()
                until = float("inf")
            time.sleep(_POLL_SECONDS)
        status = ended[1]
        output = self.printed.read_text(encoding="utf-8", errors="replace")
        if until == float("inf"):
            output += f"\nnot done after {seconds} s"
        return Ended(os.waitstatus_to_exitcode(status), output)


def command(*arguments: object) -> Callable[[], None]:
    """The command `sae` with these arguments, as a function."""

    def call() -> None:
        from pipelines import cli

        sys.argv = ["sae", *map(str, arguments)]
        cli.main()

    return call


def limit(seconds: int, extra_bytes: int) -> None:
    """Limits the processor time of this process, and the memory that it may take in addition to what it has."""
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + extra_bytes
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _run(work: Callable[[], object], printed: Path, before: Callable[[], object] | None) -> None:
    """What a child does; it never returns."""
    code = BUG
    try:
        descriptor = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.close(descriptor)
        # New ones, as those of the parent may be of its own making.
        sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1, closefd=False, encoding="utf-8") for n in (1, 2))
        if before is not None:
            before()
        work()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
