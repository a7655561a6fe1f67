"""Runs units within a time, in worker processes, and records each line as it is measured."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.gpu.units import Unit
from benchmarks.isolated import environment
from benchmarks.lines import Line, note, read

START_SECONDS = 20.0
"""Time that a worker may need to start, beside that of its first unit."""
MOST = 3.0
"""A unit that takes this many times as long as expected is ended."""


class Worker:
    """A process that measures units. It is started when it is first needed, and again after it has ended."""

    def __init__(self, threads: int | None = None) -> None:
        """`threads` limits those of its libraries."""
        self._threads = threads
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.Queue[str] = queue.Queue()

    def measure(self, unit: Unit, seconds: float) -> dict[str, Any]:
        """The answer for a unit: its figures, or why there are none after so many seconds."""
        process = self._running()
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps({"function": unit.function, "settings": dict(unit.settings)}) + "\n")
            process.stdin.flush()
            answer = self._answers.get(timeout=seconds)
        except queue.Empty:
            self.end()
            return {"ok": False, "error": f"ended after {seconds:.0f} s", "seconds": seconds}
        except BrokenPipeError:
            answer = ""
        if not answer:
            code = process.wait()
            self.end()
            return {"ok": False, "error": f"the process ended with exit code {code}"}
        return json.loads(answer)

    def _running(self) -> subprocess.Popen[str]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.gpu.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(self._threads),
        )
        self._answers = queue.Queue()
        threading.Thread(target=self._listen, args=(self._process, self._answers), daemon=True).start()
        return self._process

    @staticmethod
    def _listen(process: subprocess.Popen[str], answers: queue.Queue[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            answers.put(line)
        answers.put("")  # the process has ended

    def end(self) -> None:
        """Ends the process, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def measured_before(file: Path) -> set[str]:
    """The keys of the units that an earlier call has measured; what failed or was skipped, since a package was not
    installed, is tried again."""
    lines = read([file]) if file.is_file() else []
    return {line["key"] for line in lines if line.get("ok") and not is_skipped(line)}


def is_skipped(line: Line) -> bool:
    """Whether a unit was not measured because something is not installed: ``skipped`` says why, and is no number."""
    return isinstance(line.get("skipped"), str)


def _append(file: Path, line: Line) -> None:
    """Adds a line, on a new one where the last was cut short by a kill."""
    before = file.read_bytes()[-1:] if file.is_file() else b""
    with file.open("a", encoding="utf-8") as stream:
        stream.write(("" if before in (b"", b"\n") else "\n") + json.dumps(line) + "\n")


def measure_all(
    units: Iterable[Unit], seconds: float, file: Path, show: Callable[[Line], Line], threads: int | None = None
) -> list[Line]:
    """Measures the units for which there is time and writes each line to `file` at once; `show` completes and prints
    it. What fails is recorded, and the next unit is measured."""
    until, done, worker = time.monotonic() + seconds, measured_before(file), Worker(threads)
    file.parent.mkdir(parents=True, exist_ok=True)
    lines: list[Line] = []
    part = ""
    try:
        for unit in units:
            left = until - time.monotonic()
            if unit.key in done:
                note(f"{unit.part}: {unit.name}: measured before")
                continue
            if left < unit.seconds / 2:
                note(f"{unit.part}: {unit.name}: left for another call, {left:.0f} s are too few")
                continue
            if unit.part != part:  # a part has a process of its own
                worker.end()
                part = unit.part
            note(f"{unit.part}: {unit.name}")
            answer = worker.measure(unit, min(left, MOST * unit.seconds + START_SECONDS))
            line = show({"part": unit.part, "unit": unit.name, "key": unit.key, **answer})
            _append(file, line)
            lines.append(line)
    finally:
        worker.end()
    return lines
