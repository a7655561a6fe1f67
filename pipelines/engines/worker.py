"""A worker: does the steps of a shared run that nobody else works on, until nothing is left.

An engine starts it as a process with :func:`run_worker`, or calls :func:`work_on_group` for one group of steps.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console

from pipelines import runner
from pipelines.engines.shared_run import SharedRun
from pipelines.engines.worker_state import BEAT_SECONDS, FailedStep, WorkerActivity, WorkerState
from pipelines.steps.failures import GivenUp, Patience, StepsFailed
from pipelines.steps.progress import Board
from pipelines.steps.step import Runtime, StageProgress, Step
from sae.registry import UserError, load_plugin

_LEAVE_SECONDS = 60.0
"""How long a worker whose parent has gone may take to save its state."""
ENGINE, JOB = "SAE_ENGINE", "SAE_JOB"
"""Variables by which an engine tells a worker its own name and the number of its job."""
BUG, MISTAKE, STOPPED = 1, 2, 143
"""Exit codes of a worker, as those of the command; 0 where nothing is left to do."""


def run_worker(folder: str, name: str) -> None:
    """Works as one process. Exit codes: 0 nothing is left to do, 1 a bug, 2 a mistake of the user, 143 stopped."""
    stop_with_parent()
    for number in (signal.SIGINT, *(getattr(signal, each) for each in ("SIGUSR1", "SIGUSR2") if hasattr(signal, each))):
        signal.signal(number, signal.SIG_IGN)  # the job that started it answers the signals of a cluster
    engine, job = os.environ.get(ENGINE, "local"), os.environ.get(JOB, "")
    try:
        failures = work(Path(folder), name, engine, job)
    except UserError:
        sys.exit(MISTAKE)
    if failures:
        sys.exit(MISTAKE if all(each.is_mistake for each in failures) else BUG)


def work(folder: Path, name: str, engine: str, job: str = "", group: str = "") -> list[FailedStep]:
    """Does what is left of the run in `folder`, or only one group of its steps, whose inputs are done; returns what
    failed. The tracebacks are printed, so that they are in its log.

    A step that fails, and those that need it, are left out; the others are done all the same.
    """
    state = WorkerState(name, engine, str(folder / f"{name}.log"), job)
    state.write(folder)
    with _signs_of_life(folder / f"{name}.json"):
        board = WorkerBoard(state, folder)
        try:
            run = _opened(folder)
            runtime = runner.execution(run.table)
            steps = [step for step in run.steps if not group or runner.group_of(step) == group]
            board.tell("waiting")
            _do(steps, run, runtime, board)
        except Exception as error:
            board.fail(error)
            board.tell("failed")
            raise
        except BaseException:
            board.tell("stopped")
            raise
        board.tell("failed" if state.failures else "done")
        return state.failures


def _opened(folder: Path) -> SharedRun:
    """The run in a folder, with its plugins loaded, in its working directory."""
    run = SharedRun.read(folder)
    try:
        os.chdir(run.cwd)
    except OSError as error:
        raise UserError(f"{run.cwd}: {error.strerror}; the working directory must be there on every machine") from None
    for file in run.plugins:
        load_plugin(file)
    return run


def _do(steps: Sequence[Step], run: SharedRun, runtime: Runtime, board: WorkerBoard) -> None:
    """Does the steps; those that fail are left to other workers, and given up after some attempts."""
    try:
        runner.run(steps, run.store, runtime, board, Patience(run.folder.name))
    except StepsFailed as failed:
        missing = run.store.missing(steps)
        for group, given_up in failed.groups.items():
            board.give_up(given_up, [step.name for step in missing if runner.group_of(step) == group])


class WorkerBoard(Board):
    """Writes the progress of a worker into its log, and what it does into its state."""

    def __init__(self, state: WorkerState, folder: Path) -> None:
        super().__init__(Console(file=sys.stderr, width=200, force_terminal=False, force_jupyter=False))
        self.state, self.folder = state, folder

    def tell(self, activity: WorkerActivity, title: str = "", group: str = "") -> None:
        """Writes what the worker does from now on."""
        self.state.activity, self.state.title, self.state.group = activity, title, group
        self.state.since = time.time()
        self.state.write(self.folder)

    def fail(self, error: Exception) -> None:
        """Records what could not be done, with the traceback in the log."""
        traceback.print_exception(error)
        text = " ".join(str(error).split())
        is_mistake = isinstance(error, UserError | MemoryError) or type(error).__name__ == "OutOfMemoryError"
        line = text if isinstance(error, UserError) else f"{type(error).__name__}: {text}".removesuffix(": ")
        self.state.failures.append(FailedStep([], self.state.title, line, is_mistake, self.state.log))

    def give_up(self, given_up: GivenUp, steps: list[str]) -> None:
        """Records steps that failed on several workers, or would."""
        is_mistake, log = given_up.failure.is_final, str(given_up.log)
        self.state.failures.append(FailedStep(steps, given_up.title, given_up.error, is_mistake, log))

    @contextmanager
    def work(self, title: str, steps: list[str], scratch: Path) -> Generator[StageProgress]:
        """As that of a board, with what the worker does in its state; it stays where the block raises."""
        self.tell("working", title, scratch.name)
        with super().work(title, steps, scratch) as progress:
            yield progress
        self.tell("waiting")


@contextmanager
def _signs_of_life(file: Path) -> Generator[None]:
    """Touches a file every few seconds while the block runs."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(BEAT_SECONDS):
            with suppress(OSError):
                os.utime(file)

    thread = threading.Thread(target=beat, name="signs of life", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()


def stop_with_parent() -> None:
    """Ends this process when its stdin, a pipe of the process that started it, is closed: that one has ended."""

    def watch() -> None:
        while os.read(0, 64):
            pass
        if hasattr(signal, "SIGTERM") and os.name != "nt":
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(_LEAVE_SECONDS)
        os._exit(STOPPED)

    threading.Thread(target=watch, name="parent", daemon=True).start()
