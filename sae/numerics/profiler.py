"""Where time goes: named spans, nested and from several threads; free when nobody asks.

    with spans("encode"):
        ...

A span's self time is its own without that of the spans inside it, so that over one thread the self times sum to
the time of the outermost spans.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple

Nesting = tuple[str, ...]
"""The names of a span and of those around it in its thread, the outermost first."""


@dataclass(frozen=True)
class Total:
    """What all spans of a name took together."""

    count: int = 0
    seconds: float = 0.0
    self_seconds: float = 0.0

    def __add__(self, other: Total) -> Total:
        seconds, own = self.seconds + other.seconds, self.self_seconds + other.self_seconds
        return Total(self.count + other.count, seconds, own)


class Event(NamedTuple):
    """One span that has ended; `start_ns` is counted from when the recorder was made."""

    name: str
    start_ns: int
    duration_ns: int
    thread: int


class Spans:
    """Records spans: sums over all of them, and the last `keep` one by one.

    Work on a device runs behind the program that asked for it. `synchronise` is called where a span begins and
    ends, so that it holds what was asked for inside it; only in the thread that made the recorder, since a
    thread that fetches ahead is there not to wait for the device.
    """

    def __init__(self, synchronise: Callable[[], None] | None = None, keep: int = 200_000) -> None:
        self._synchronise = synchronise
        self._owner = threading.get_ident()
        self._origin = time.perf_counter_ns()
        self._open = threading.local()
        self._lock = threading.Lock()
        self._sums: dict[Nesting, list[int]] = {}
        self._events: deque[Event] = deque(maxlen=keep)

    def __call__(self, name: str) -> AbstractContextManager[None]:
        """A block of that name; on one thread, blocks end in the reverse of the order in which they began."""
        return _Span(self, name)

    def totals(self) -> Mapping[str, Total]:
        """By name, wherever a span of that name was."""
        found: dict[str, Total] = {}
        for path, total in self.by_path().items():
            found[path[-1]] = found.get(path[-1], Total()) + total
        return found

    def by_path(self) -> Mapping[Nesting, Total]:
        """By name and the names around it: ``("train", "encode")``."""
        with self._lock:
            return {path: Total(n, whole / 1e9, own / 1e9) for path, (n, whole, own) in self._sums.items()}

    def trace_events(self) -> list[dict[str, Any]]:
        """The spans kept, as complete events ('X', microseconds) of Chrome's trace format, by their beginning."""
        process = os.getpid()
        with self._lock:
            events = sorted(self._events, key=lambda event: (event.start_ns, -event.duration_ns))
        return [
            {
                "name": e.name,
                "ph": "X",
                "ts": e.start_ns / 1e3,
                "dur": e.duration_ns / 1e3,
                "pid": process,
                "tid": e.thread,
            }
            for e in events
        ]

    def enter(self, span: _Span) -> None:
        """Begins a span; called by the block itself."""
        self._wait()
        stack = self._stack()
        span.path = (*(stack[-1].path if stack else ()), span.name)
        stack.append(span)
        span.began = time.perf_counter_ns()

    def leave(self, span: _Span) -> None:
        """Ends the innermost span; called by the block itself."""
        self._wait()
        duration = time.perf_counter_ns() - span.began
        stack = self._stack()
        stack.pop()
        if stack:
            stack[-1].inside += duration
        event = Event(span.name, span.began - self._origin, duration, threading.get_native_id())
        with self._lock:
            sums = self._sums.setdefault(span.path, [0, 0, 0])
            sums[0] += 1
            sums[1] += duration
            sums[2] += duration - span.inside
            self._events.append(event)

    def _wait(self) -> None:
        if self._synchronise is not None and threading.get_ident() == self._owner:
            self._synchronise()

    def _stack(self) -> list[_Span]:
        """The spans that are open in this thread."""
        try:
            return self._open.stack
        except AttributeError:
            self._open.stack = []
            return self._open.stack


class _Span:
    """One block under way."""

    __slots__ = ("began", "inside", "name", "path", "spans")

    def __init__(self, spans: Spans, name: str) -> None:
        self.spans, self.name = spans, name
        self.path: Nesting = ()
        self.began = self.inside = 0

    def __enter__(self) -> None:
        self.spans.enter(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.spans.leave(self)


class _Nothing:
    """A block that is not recorded."""

    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        pass


class _NoSpans(Spans):
    """Records nothing: every call gives the same empty block."""

    _NOTHING = _Nothing()

    def __call__(self, name: str) -> AbstractContextManager[None]:
        return self._NOTHING


NO_SPANS: Spans = _NoSpans(keep=0)
"""The recorder that records nothing."""
