"""Training rows fetched ahead of the step that needs them, in threads beside it; the values are the source's own."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sae.numerics.profiler import NO_SPANS, Spans
from sae.source import Batch, Source

SPAN = "fetch ahead"
"""The name of the time that the threads take; it runs beside the steps and is not part of theirs."""


class Pair(NamedTuple):
    """Rows on the device in float32: what a dictionary reads, and what it is to give back (`x` itself, the same
    tensor, where the source has no targets)."""

    x: Float[Tensor, "batch d_in"]
    y: Float[Tensor, "batch d_in"]


def default_workers(device: str) -> int:
    """How many batches are under way at once: none on a CPU, whose cores the step itself keeps busy."""
    return min(8, max(1, (os.cpu_count() or 1) - 1)) if device.startswith("cuda") else 0


def batches_of(
    source: Source,
    steps: range,
    size: int,
    device: str = "cpu",
    workers: int | None = None,
    spans: Spans = NO_SPANS,
) -> Generator[Pair]:
    """Yields the rows of ``source.batch(step, size)`` for every step, with their targets, on `device` in float32.

    A batch depends on nothing but its step, so that `workers` of them can be made at once, each in a thread of its
    own, and copied to a GPU beside the work there. What a source raises is raised here, at the step that it belongs
    to; once the generator is closed the threads are gone. With no workers a batch is made when it is asked for.
    """
    workers = default_workers(device) if workers is None else workers
    if not workers:
        for step in steps:
            yield _moved(source.batch(step, size), device)
        return
    stream = torch.cuda.Stream(device) if device.startswith("cuda") else None
    pool = ThreadPoolExecutor(workers, "fetch")
    coming: deque[Future[_Fetched]] = deque()
    try:
        for step in steps:
            first = step + len(coming) * steps.step
            # One more than there are threads, so that none of them waits for the step to take what it has made.
            for later in range(first, steps.stop, steps.step)[: workers + 1 - len(coming)]:
                coming.append(pool.submit(_fetch, source, later, size, device, stream, spans))
            yield coming.popleft().result().take()
    finally:
        pool.shutdown(cancel_futures=True)


@dataclass(frozen=True, eq=False)
class _Fetched:
    """Rows that are on the device, or on the way there until `arrived`."""

    rows: Pair
    arrived: torch.cuda.Event | None = None

    def take(self) -> Pair:
        """The rows, for work on the stream of the thread that asks."""
        if self.arrived is not None:
            stream = torch.cuda.current_stream(self.rows.x.device)
            stream.wait_event(self.arrived)
            for rows in self.rows:
                rows.record_stream(stream)
        return self.rows


def _fetch(
    source: Source, step: int, size: int, device: str, stream: torch.cuda.Stream | None, spans: Spans
) -> _Fetched:
    with spans(SPAN):
        if stream is None:
            return _Fetched(_moved(source.batch(step, size), device))
        with torch.cuda.stream(stream):
            rows = _moved(source.batch(step, size), device, beside=True)
            arrived = torch.cuda.Event()
            arrived.record(stream)
            return _Fetched(rows, arrived)


def _moved(batch: Batch, device: str, beside: bool = False) -> Pair:
    """The rows on the device; `beside` other work there, where the copy is not waited for."""

    def moved(rows: Tensor) -> Tensor:
        pinned = rows.pin_memory() if beside and rows.device.type == "cpu" else rows
        # Rows travel in the type that they have, and are widened there.
        return pinned.to(device, non_blocking=beside).float()

    x = moved(batch.acts)
    return Pair(x, x if batch.targets is None else moved(batch.targets))
