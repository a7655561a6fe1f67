"""Activations that are computed as training reads them, and never written to disk.

A thread runs the model over the windows of :mod:`sae.activations.window_order`, one window ahead of the segment that is
being read, and puts every activation at its place in the segments. Three segments are in memory at most: the one that
is read, the next, and the earlier half of the one after that. A segment that is no longer in memory is computed again,
so that a sample depends on its number alone; reading in order computes each window once. Several processes that read a
stream together divide the rows of each window (:mod:`sae.activations.stream_shares`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae.activations.stream_shares import EverySample, OwnSamples
from sae.activations.window_order import WindowOrder
from sae.numerics.processes import ALONE, Processes

SEGMENTS = 3
"""The most segments that are in memory at once."""

Columns = Mapping[str, Tensor]
"""Tensors with the same number of rows, by name."""
Compute = Callable[[NDArray[np.int64]], Iterator[Columns]]
"""Yields the columns of the given rows of tokens piece by piece, in the order of the rows."""


@dataclass(frozen=True, eq=False)
class _Segment:
    columns: Columns
    """The activations; undefined where their window is not in `filled`."""
    filled: set[int] = field(default_factory=set[int])
    """The windows whose activations are there."""


class Stream:
    """The samples of a training split in their order, on one device."""

    def __init__(
        self,
        order: WindowOrder,
        compute: Compute,
        empty: Callable[[int], Columns],
        device: str,
        processes: Processes = ALONE,
        rows_at_once: int = 1,
    ) -> None:
        """`empty` allocates the columns of so many samples on `device`; `compute` runs the model over `rows_at_once`
        rows at a time."""
        self.order, self.device = order, device
        self._share = EverySample(order) if processes.size == 1 else OwnSamples(order, processes, rows_at_once)
        self._compute, self._empty = compute, empty
        self._segments: dict[int, _Segment] = {}
        self._wanted = 0
        self.end: int | None = None
        """Samples are computed ahead up to this number; None: none are."""
        self._running: Future[None] | None = None
        self._last: tuple[tuple[int, int], dict[str, Tensor]] = (0, 0), {}
        self._stopped, self._lock = threading.Event(), threading.Lock()
        self._thread = ThreadPoolExecutor(1, "harvest", torch.set_num_threads, (torch.get_num_threads(),))
        self._began = time.perf_counter()
        self.n_computed = 0
        """The number of activations that the model has computed."""
        self.seconds_computing = 0.0
        """Seconds that the model took for them."""
        self.seconds_waiting = 0.0
        """Seconds that the reader waited for the model."""

    def take(self, begin: int, end: int) -> dict[str, Tensor]:
        """The columns of the samples `begin` to `end`, counted from the beginning of training."""
        with self._lock:
            # Sources that share the stream ask for the same samples in turn; a batch may span two segments, the first
            # of which is gone once it has been read.
            if self._last[0] != (begin, end):
                self._last = (begin, end), self._read(begin, end)
            return self._last[1]

    def _read(self, begin: int, end: int) -> dict[str, Tensor]:
        """Copies of the samples: a view would keep a segment in memory after it has been dropped."""
        pieces: list[Columns] = []
        while begin < end:
            number = self.order.segment_of(begin)
            start = self.order.segment_start(number)
            stop = min(end, start + self.order.segment_size(number))
            columns = self._whole(number).columns
            pieces.append(self._share.read(number, columns, begin - start, stop - start))
            begin = stop
        return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}

    def figures(self) -> dict[str, float]:
        """The activations per second that the model computes, and the share of its time that the reader waited."""
        computed = self.n_computed / self.seconds_computing if self.n_computed else 0.0
        return {"model_per_s": computed, "waiting": self.seconds_waiting / (time.perf_counter() - self._began)}

    def close(self) -> None:
        """Ends the thread after the forward pass that it is in."""
        self._stopped.set()
        self._thread.shutdown(cancel_futures=True)
        self._segments.clear()

    def _whole(self, number: int) -> _Segment:
        """A segment with all its activations; windows ahead of it are being computed when this returns."""
        if number < self._wanted and self._running is not None:
            self._collect()  # it fills segments that are dropped now
        self._wanted = number
        self._segments = {n: self._segments[n] for n in self._alive() if n in self._segments}
        while (ahead := self._next_window()) is not None:
            if self._running is None:
                self._running = self._start(ahead)
            if not self._lacks(number) and not self._running.done():
                break
            self._collect()
        return self._segments[number]

    def _collect(self) -> None:
        """Waits for the window that is being computed. Raises what the computation raised."""
        running, self._running = self._running, None
        if running is not None:
            began = time.perf_counter()
            running.result()
            self.seconds_waiting += time.perf_counter() - began

    def _alive(self) -> range:
        return range(self._wanted, self._wanted + SEGMENTS)

    def _lacks(self, number: int) -> list[int]:
        """The windows that a segment still lacks."""
        filled = self._segments[number].filled if number in self._segments else set[int]()
        return [window for window in (number - 1, number) if window >= 0 and window not in filled]

    def _next_window(self) -> int | None:
        """The next window to compute; None once the segment that is read and the next are whole."""
        if lacking := self._lacks(self._wanted):
            return lacking[0]
        following = self._wanted + 1
        if self.end is None or self.order.segment_start(following) >= self.end:
            return None
        return next(iter(self._lacks(following)), None)

    def _start(self, window: int) -> Future[None]:
        for number in (window, window + 1):
            if number in self._alive() and number not in self._segments:
                self._segments[number] = _Segment(self._empty(self._share.n_held(number)))
        into = [self._segments.get(number) for number in (window, window + 1)]
        side = _side_stream(self.device)
        return self._thread.submit(self._fill, window, into, side)

    def _fill(self, window: int, into: list[_Segment | None], side: torch.cuda.Stream | None) -> None:
        """Computes a window and puts its activations into the segments that they belong to, None where one is not
        needed."""
        began = time.perf_counter()
        places, done = self._share.places(window), 0
        with torch.no_grad(), _on(side):
            for piece in self._compute(self._share.rows(window)):
                if self._stopped.is_set():
                    return
                n = len(next(iter(piece.values())))
                later, position = places.later[done : done + n], places.position[done : done + n]
                for segment, belongs in zip(into, (~later, later), strict=True):
                    if segment is not None:
                        _place(piece, np.flatnonzero(belongs), position[belongs], segment.columns)
                done += n
        assert done == len(places.position), "the model was run over other tokens than were counted"
        if side is not None:
            side.synchronize()
        for segment in into:
            if segment is not None:
                segment.filled.add(window)
        self.n_computed += done
        self.seconds_computing += time.perf_counter() - began


def _place(piece: Columns, rows: NDArray[np.int64], position: NDArray[np.int64], columns: Columns) -> None:
    for name, column in columns.items():
        index, to = (torch.from_numpy(i).to(column.device) for i in (rows, position))
        column.index_copy_(0, to, piece[name].to(column.device).index_select(0, index))


def _side_stream(device: str) -> torch.cuda.Stream | None:
    """A stream for the model that begins after the work on the current one; None on a CPU."""
    if not device.startswith("cuda"):
        return None
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    return side


def _on(side: torch.cuda.Stream | None) -> AbstractContextManager[object]:
    return nullcontext() if side is None else torch.cuda.stream(side)
