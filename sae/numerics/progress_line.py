"""Progress of a long call as one line on stderr, and the words for rates and times."""

from __future__ import annotations

import io
import shutil
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, TextIO


def duration(seconds: int | float) -> str:
    """``42 s``, ``3 min 05 s`` or ``2 h 10 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def progress_text(
    done: int, total: int, unit: str, rate: float | None, seconds_left: float | None, figures: Mapping[str, float | int]
) -> str:
    """One line, e.g. ``1200/6000 steps, 410/s, 12 s left, loss 0.8``; rate and time left where they are known."""
    parts = [f"{done}/{total} {unit}"] if total else ["starting"]
    if rate is not None and seconds_left is not None:
        parts += [f"{rate:.3g}/s", f"{duration(seconds_left)} left"]
    return ", ".join(parts + [f"{name} {value:.4g}" for name, value in figures.items()])


def is_terminal(stream: Any) -> bool:
    """Whether a stream is a terminal; one of a program's own may have no `isatty`, and None is none."""
    return bool(getattr(stream, "isatty", lambda: False)())


class ProgressLine:
    """Shows the progress of a call while it runs, and leaves a terminal as it was.

    `shown` is True, False, or None for only where stderr is a terminal. Elsewhere, as in a notebook or a file, progress
    is a new line every few seconds.
    """

    TERMINAL_SECONDS, LINE_SECONDS = 0.1, 5.0
    """The least time between two updates of a terminal's line, and between two lines elsewhere."""

    def __init__(self, title: str, shown: bool | None = None) -> None:
        out: TextIO | None = sys.stderr  # None under pythonw
        self.title, self.stream = title, out or io.StringIO()
        self.on_terminal = is_terminal(out)
        self.is_shown = out is not None and (self.on_terminal if shown is None else shown)
        self._first: tuple[float, int, str] | None = None
        self._at = -float("inf")

    def __enter__(self) -> ProgressLine:
        return self

    def __call__(self, done: int, total: int, unit: str, **figures: int | float) -> None:
        """`done` of `total` units, a plural noun, are done; `figures` are values to show, such as the loss."""
        if not self.is_shown:
            return
        now = time.monotonic()
        if self._first is None or self._first[2] != unit:
            self._first = (now, done, unit)
        wait = self.TERMINAL_SECONDS if self.on_terminal else self.LINE_SECONDS
        if now - self._at < wait and (self.on_terminal or done < total):
            return
        self._at = now
        began, before, _ = self._first
        rate = (done - before) / (now - began) if now > began and done > before else None
        left = None if rate is None else (total - done) / rate
        text = f"{self.title}: {progress_text(done, total, unit, rate, left, figures)}"
        if self.on_terminal:
            width = shutil.get_terminal_size().columns - 1
            self.stream.write(f"\r{text[:width].ljust(width)}")
        else:
            self.stream.write(f"{text}\n")
        self.stream.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.is_shown and self.on_terminal and self._at > 0:
            self.stream.write("\r" + " " * (shutil.get_terminal_size().columns - 1) + "\r")
            self.stream.flush()
