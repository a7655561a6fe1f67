"""SIGTERM, with which cluster engines end jobs: work is left at a moment from which the next run continues.

The first signal only asks. Stages leave at their next report of progress; one that asks `Runtime.stopping` itself, such
as training, writes a checkpoint first. A second signal ends the process at once.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

EXIT_CODE = 143
"""Exit code of a process that was stopped: 128 and the number of SIGTERM."""
_asked = ""
"""What asked this process to stop; empty where nothing did."""


class Stopped(SystemExit):
    """Work was left because the process was asked to stop; ends the process with `EXIT_CODE`.

    Parameters
    ----------
    where
        Where the next run continues, for a sentence: ``at step 1200``.
    """

    def __init__(self, where: str) -> None:
        super().__init__(EXIT_CODE)
        self.where = where


def ask_to_stop(by: str = "SIGTERM") -> None:
    """Asks this process to leave its work, from a signal handler too; `by` names what asks."""
    global _asked
    _asked = by


def asked_to_stop() -> str:
    """What asked this process to stop; empty where nothing did."""
    return _asked


@contextmanager
def stoppable() -> Generator[None]:
    """Takes SIGTERM for a request to stop while the block runs.

    Changes nothing outside the main thread, which alone gets signals, and where the program has a handler of its own.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    pid = os.getpid()

    def ask(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)  # a second one ends the process, also in the midst of a call
        if os.getpid() != pid:  # a forked child, which is no run
            os.kill(os.getpid(), number)
        ask_to_stop(signal.Signals(number).name)

    signal.signal(signal.SIGTERM, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        ask_to_stop("")
