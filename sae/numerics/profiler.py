"""A profiler of named spans, which nest and may come from several threads; :data:`NO_SPANS` records nothing.

    with spans("encode"):
        ...

The self time of a span excludes the spans inside it, so within a thread the self times sum to the time of the outermost
spans.
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
"""The names of a span and its enclosing spans in the same thread, the outermost first."""


@dataclass(frozen=True)
class Total:
    """The total time of all spans of a name."""

    count: int = 0
    """The number of spans."""
    seconds: float = 0.0
    """Time in these spans."""
    self_seconds: float = 0.0
    """Time in these spans, without the spans inside them."""

    def __add__(self, other: Total) -> Total:
        seconds, self_seconds = self.seconds + other.seconds, self.self_seconds + other.self_seconds
        return Total(self.count + other.count, seconds, self_seconds)


class Event(NamedTuple):
    """One finished span."""

    name: str
    start_ns: int
    """Nanoseconds since the recorder was made."""
    duration_ns: int
    thread: int
    """The native id of the thread."""


class Spans:
    """Records spans: totals over all of them, and the last `keep` events.

    A GPU runs asynchronously, so `synchronise` is called where a span begins and ends, and the span includes the work
    launched inside it. It is called only in the thread that made the recorder: threads that prefetch batches must not
    wait for the device.
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
        """A context manager that records a span of that name; the spans of a thread must be properly nested."""
        return _Span(self, name)

    def totals(self) -> Mapping[str, Total]:
        """The totals by name, wherever the span was nested."""
        totals: dict[str, Total] = {}
        for path, total in self.by_path().items():
            totals[path[-1]] = totals.get(path[-1], Total()) + total
        return totals

    def by_path(self) -> Mapping[Nesting, Total]:
        """The totals by the names of the enclosing spans and the span, e.g. ``("train", "encode")``."""
        with self._lock:
            return {path: Total(n, ns / 1e9, self_ns / 1e9) for path, (n, ns, self_ns) in self._sums.items()}

    def trace_events(self) -> list[dict[str, Any]]:
        """The recorded events as complete events ('X', microseconds) of Chrome's trace format, sorted by start."""
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
        """Begins a span; called by its context manager."""
        self._wait()
        stack = self._stack()
        span.path = (*(stack[-1].path if stack else ()), span.name)
        stack.append(span)
        span.began = time.perf_counter_ns()

    def leave(self, span: _Span) -> None:
        """Ends the innermost span; called by its context manager."""
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
    """The context manager of one open span."""

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
    """A context manager that records nothing."""

    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        pass


class _NoSpans(Spans):
    """Records nothing: every call returns the same empty context manager."""

    _NOTHING = _Nothing()

    def __call__(self, name: str) -> AbstractContextManager[None]:
        return self._NOTHING


NO_SPANS: Spans = _NoSpans(keep=0)
"""The recorder that records nothing."""
