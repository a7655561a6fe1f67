"""Work that is seen: a bar on a terminal, a line now and then elsewhere, a file for ``sae status`` always."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

from pipelines.steps.step import Tell

STATUS = "status.json"


@dataclass
class Status:
    """How far one group's work is."""

    title: str
    steps: list[str]
    pid: int = field(default_factory=os.getpid)
    done: int = 0
    total: int = 0
    unit: str = ""
    rate: float | None = None
    seconds_left: float | None = None
    figures: Mapping[str, float] = field(default_factory=dict)

    def told(self) -> str:
        """One line, e.g. ``1200/6000 steps, 410/s, 12 s left, loss 0.8``."""
        parts = [f"{self.done}/{self.total} {self.unit}"] if self.total else ["begins"]
        if self.rate is not None and self.seconds_left is not None:
            parts += [f"{self.rate:.3g}/s", f"{duration(self.seconds_left)} left"]
        return ", ".join(parts + [f"{name} {value:.4g}" for name, value in self.figures.items()])

    def write(self, file: Path) -> None:
        temporary = file.with_suffix(".new")
        temporary.write_text(json.dumps(asdict(self)) + "\n")
        temporary.replace(file)


def read_status(folder: Path) -> Status | None:
    """What the last run of a group left in its scratch folder; None where nobody works or worked on it."""
    try:
        return Status(**json.loads((folder / STATUS).read_text()))
    except FileNotFoundError:
        return None


def duration(seconds: float) -> str:
    """``42 s``, ``3 min 05 s`` or ``2 h 10 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class Board:
    """Shows the work of one process on a console, which should be that of stderr."""

    LINE_SECONDS = 15.0
    STATUS_SECONDS = 1.0
    QUICK_SECONDS = 1.0

    def __init__(self, console: Console) -> None:
        self.console = console

    def note(self, text: str) -> None:
        self.console.print(text, style="dim", highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def work(self, title: str, steps: list[str], scratch: Path) -> Generator[Tell]:
        """Shows one group's work while the block runs; yields the function by which a stage tells of it."""
        status = Status(title, steps)
        status.write(scratch / STATUS)
        began = time.monotonic()
        bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[told]}", style="dim", markup=False),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        with bar:
            yield self._teller(status, scratch / STATUS, bar)
        seconds = time.monotonic() - began
        if seconds >= self.QUICK_SECONDS:
            self.note(f"{title}: done in {duration(seconds)}")

    def _teller(self, status: Status, file: Path, bar: Progress) -> Tell:
        task = bar.add_task(status.title, total=None, told="")
        first: tuple[float, int] | None = None
        line_at = written_at = time.monotonic()

        def tell(done: int, total: int, unit: str, **figures: float) -> None:
            nonlocal first, line_at, written_at
            now = time.monotonic()
            if first is None or unit != status.unit:
                first = (now, done)
            status.done, status.total, status.unit, status.figures = done, total, unit, figures
            if now > first[0] and done > first[1]:
                status.rate = (done - first[1]) / (now - first[0])
                status.seconds_left = (total - done) / status.rate
            bar.update(task, completed=done, total=total, told=status.told())
            if now - written_at >= self.STATUS_SECONDS:
                status.write(file)
                written_at = now
            if bar.disable and now - line_at >= self.LINE_SECONDS:
                self.note(f"{status.title}: {status.told()}")
                line_at = now

        return tell
