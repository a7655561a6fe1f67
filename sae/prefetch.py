"""Training rows fetched ahead of the step that needs them, in threads beside it; the values are the source's own."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sae.source import Source
from sae.spans import NO_SPANS, Spans

SPAN = "fetch ahead"
"""The name of the time that the threads take; it runs beside the steps and is not part of theirs."""


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
) -> Generator[Float[Tensor, "batch d_in"]]:
    """Yields ``source.batch(step, size).acts`` for every step, on `device` in float32.

    A batch depends on nothing but its step, so that `workers` of them can be made at once, each in a thread of its
    own, and copied to a GPU beside the work there. What a source raises is raised here, at the step that it belongs
    to; once the generator is closed the threads are gone. With no workers a batch is made when it is asked for.
    """
    workers = default_workers(device) if workers is None else workers
    if not workers:
        for step in steps:
            yield source.batch(step, size).acts.to(device, torch.float32)
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

    rows: Tensor
    arrived: torch.cuda.Event | None = None

    def take(self) -> Tensor:
        """The rows, for work on the stream of the thread that asks."""
        if self.arrived is not None:
            stream = torch.cuda.current_stream(self.rows.device)
            stream.wait_event(self.arrived)
            self.rows.record_stream(stream)
        return self.rows


def _fetch(
    source: Source, step: int, size: int, device: str, stream: torch.cuda.Stream | None, spans: Spans
) -> _Fetched:
    with spans(SPAN):
        if stream is None:
            return _Fetched(source.batch(step, size).acts.to(device, torch.float32))
        with torch.cuda.stream(stream):
            rows = source.batch(step, size).acts
            pinned = rows.pin_memory() if rows.device.type == "cpu" else rows
            arrived = torch.cuda.Event()
            rows = pinned.to(device, non_blocking=True).float()
            arrived.record(stream)
            return _Fetched(rows, arrived)
