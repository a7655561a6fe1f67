"""Has a run done by the workers of an engine, and shows what each of them is doing."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from pipelines.engines import WorkersFailed
from pipelines.engines.engine import WorkerEngine
from pipelines.engines.shared_run import SharedRun, name_of, run_folders
from pipelines.engines.worker_state import WorkerState, file_system_time, read_states
from pipelines.runner import group_of
from pipelines.steps.progress import Board, read_status
from pipelines.steps.store import Store
from sae.registry import UserError

TEND_SECONDS = 0.1
"""Seconds between two looks at the workers."""
_LEAVE_SECONDS = 30.0
"""How long workers may take to leave when every step is done."""
SHOW_SECONDS = 1.0
"""Seconds between two looks at what they are doing."""
_LOOKS_PER_SECOND, _MOST_SECONDS = 500, 2.0
"""How many steps are looked at in a second, each in the folder on what may be a slow file system, and the most time
between two looks at all of them."""


def drive(engine: WorkerEngine, run: SharedRun, n: int, console: Console) -> bool:
    """Has the run done by at most `n` workers of the engine, and returns True when every step is done; False at once
    where the engine leaves its workers to a cluster.

    Raises `UserError` where steps failed by a mistake of the user, and `WorkersFailed` where others failed or the
    workers died; what does not depend on those steps is done. Ctrl-C and SIGTERM stop the workers first.
    """
    n = min(n, len({group_of(step) for step in run.pending()}))
    table = WorkersTable(console, run, engine.name)
    try:
        with _sigterm_raises(), table:
            engine.start(run, n)
            table.note(f"{n} {'worker' if n == 1 else 'workers'} ({engine.name}); logs: {run.folder}")
            if engine.detaches:
                table.note(engine.stop())
                return False
            pending, last = len(run.pending()), time.monotonic()
            while engine.tend(is_pending=pending > 0) and time.monotonic() - last < _LEAVE_SECONDS:
                time.sleep(TEND_SECONDS)
                pending = table.show()
                last = time.monotonic() if pending else last
    except BaseException as end:
        if hint := engine.stop():
            table.note(hint)
        if isinstance(end, SystemExit):
            table.note("stopped by SIGTERM; run the same command again to continue")
        raise
    engine.stop()
    if run.pending():
        raise _failure(engine, run)
    return True


def _failure(engine: WorkerEngine, run: SharedRun) -> Exception:
    """The error for steps that are left when all workers have ended."""
    failures = engine.failures(run)
    if not failures:
        why = "; ".join(engine.lost()) or f"the workers ended before the work was done; logs: {run.folder}"
        return WorkersFailed(why)
    first = next((each for each in failures if not each.is_mistake), failures[0])
    more = f" and {len(failures) - 1} more" if len(failures) > 1 else ""
    line = f"{first.title}{': ' if first.title else ''}{first.error}{more} (log: {first.log})"
    return UserError(line) if all(each.is_mistake for each in failures) else WorkersFailed(f"failed: {line}")


class WorkersTable:
    """What is done, and a line for each worker: kept up to date on a terminal, printed now and then elsewhere."""

    def __init__(self, console: Console, run: SharedRun, engine: str) -> None:
        self.console, self.run, self.engine = console, run, engine
        self._pending = run.pending()
        self._shown_at = self._printed_at = self._looked_at = time.monotonic()
        self._live = Live(console=console, transient=True, auto_refresh=False) if console.is_terminal else None

    def __enter__(self) -> WorkersTable:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def note(self, text: str) -> None:
        """Prints a line."""
        self.console.print(text, style="dim", highlight=False, markup=False, soft_wrap=True)

    def show(self) -> int:
        """Shows what is going on, where it is time to; returns how many steps are not done."""
        now = time.monotonic()
        if now - self._looked_at >= min(_MOST_SECONDS, len(self._pending) / _LOOKS_PER_SECOND):
            self._pending = [step for step in self._pending if not self.run.store.done(step)]
            self._looked_at = now
        if self._live is not None and now - self._shown_at >= SHOW_SECONDS:
            self._shown_at = now
            self._live.update(Group(*(Text(line, "dim", no_wrap=True) for line in self._lines())), refresh=True)
        elif self._live is None and now - self._printed_at >= Board.LINE_SECONDS:
            self._printed_at = now
            for line in self._lines():
                self.note(line)
        return len(self._pending)

    def _lines(self) -> list[str]:
        states, now = read_states(self.run.folder), file_system_time(self.run.folder)
        alive = [state.is_alive(self.run.folder, now) for state in states]
        running = sum(self._steps_of(state) for state, is_alive in zip(states, alive, strict=True) if is_alive)
        done, waiting = len(self.run.steps) - len(self._pending), max(0, len(self._pending) - running)
        lines = [state.line(self.run.store, is_alive) for state, is_alive in zip(states, alive, strict=True)]
        return [f"{done} of {len(self.run.steps)} steps done, {running} running, {waiting} waiting", *lines]

    def _steps_of(self, state: WorkerState) -> int:
        """The number of steps that a worker is working on."""
        status = read_status(self.run.store.scratch(state.group)) if state.group else None
        return sum(not (self.run.store.root / name).is_dir() for name in status.steps) if status else 0


def describe_workers(name: str, root: Path) -> list[str]:
    """A line for each worker of the runs of a config, with its log: of the last run, and of others that go on."""
    folders = [folder for folder in run_folders(root) if name_of(folder) == name]
    lines: list[str] = []
    for folder in folders:
        states, now = read_states(folder), file_system_time(folder)
        alive = [state.is_alive(folder, now) for state in states]
        if any(alive) or folder == folders[-1]:
            each = zip(states, alive, strict=True)
            lines += [f"{state.line(Store(root), is_alive)}; log: {state.log}" for state, is_alive in each]
    return lines


@contextmanager
def _sigterm_raises() -> Generator[None]:
    """SIGTERM ends the block as Ctrl-C does, with exit code 143; only the main thread can take signals."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
