"""Progress of a run: a bar on a terminal, a line every few seconds elsewhere, and always a file for ``sae status``."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pydantic import TypeAdapter
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

from pipelines.steps.step import StageProgress
from sae.numerics.atomic_write import named_errors
from sae.numerics.progress_line import duration, progress_text

STATUS = "status.json"
"""File in a group's scratch folder that holds its `Status`."""


@dataclass
class Status:
    """Progress of one group of steps."""

    title: str
    """Stage and title of the group's first step."""
    steps: list[str]
    """Names of the group's steps."""
    pid: int = field(default_factory=os.getpid)
    """Process that works on the group."""
    host: str = ""
    """Name of its machine; empty where earlier versions wrote the status."""
    done: int = 0
    """Units that are done."""
    total: int = 0
    """Units in all; 0 before the stage has reported any progress."""
    unit: str = ""
    """What is counted, in the plural: ``steps``, ``dictionaries``, ..."""
    rate: float | None = None
    """Units per second; None until it is known."""
    seconds_left: float | None = None
    """Estimated time left; None until the rate is known."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """Values shown with the progress, such as the loss."""

    def line(self) -> str:
        """One line, e.g. ``1200/6000 steps, 410/s, 12 s left, loss 0.8``."""
        return progress_text(self.done, self.total, self.unit, self.rate, self.seconds_left, self.figures)

    def write(self, file: Path) -> None:
        """Writes the status as JSON, atomically."""
        temporary = file.with_suffix(".new")
        with named_errors(file):
            temporary.write_text(json.dumps(asdict(self)) + "\n")
        with suppress(PermissionError):  # on Windows, while `sae status` reads the file: the next write replaces it
            temporary.replace(file)


def read_status(folder: Path) -> Status | None:
    """The status in a group's scratch folder, written by the run that works or last worked on it; None where there is
    none or it is unreadable, because nothing but what is shown depends on it."""
    try:
        return TypeAdapter(Status).validate_json((folder / STATUS).read_bytes())
    except (OSError, ValueError):
        return None


class Board:
    """Shows the progress of this process on `console`, which should write to stderr."""

    LINE_SECONDS = 15.0
    """Seconds between lines where the console is not a terminal."""
    STATUS_SECONDS = 1.0
    """Seconds between writes of the status file."""
    QUICK_SECONDS = 1.0
    """Work that takes less is not reported as done."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def note(self, text: str) -> None:
        """Prints one line."""
        self.console.print(text, style="dim", highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def work(self, title: str, steps: list[str], scratch: Path) -> Generator[StageProgress]:
        """Shows the progress of a group while the block runs; yields the callback that the stage reports it to."""
        status = Status(title, steps, host=platform.node())
        status.write(scratch / STATUS)
        start = time.monotonic()
        bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[line]}", style="dim", markup=False),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        with bar:
            yield self._callback(status, scratch / STATUS, bar)
        seconds = time.monotonic() - start
        if seconds >= self.QUICK_SECONDS:
            self.note(f"{title}: done in {duration(seconds)}")

    def _callback(self, status: Status, file: Path, bar: Progress) -> StageProgress:
        task = bar.add_task(status.title, total=None, line="")
        first: tuple[float, int] | None = None
        line_at = written_at = time.monotonic()

        def progress(done: int, total: int, unit: str, **figures: float) -> None:
            nonlocal first, line_at, written_at
            now = time.monotonic()
            if first is None or unit != status.unit:
                first = (now, done)
            status.done, status.total, status.unit, status.figures = done, total, unit, figures
            if now > first[0] and done > first[1]:
                status.rate = (done - first[1]) / (now - first[0])
                status.seconds_left = (total - done) / status.rate
            bar.update(task, completed=done, total=total, line=status.line())
            if now - written_at >= self.STATUS_SECONDS:
                status.write(file)
                written_at = now
            if bar.disable and now - line_at >= self.LINE_SECONDS:
                self.note(f"{status.title}: {status.line()}")
                line_at = now

        return progress
