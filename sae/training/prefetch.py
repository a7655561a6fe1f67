"""Prefetches training batches in threads, ahead of the steps that use them."""

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
"""The name of the profiler's span for the threads, which run in parallel with the steps."""


class Pair(NamedTuple):
    """A batch of inputs and targets, in float32 on the device."""

    x: Float[Tensor, "batch d_in"]
    """The inputs."""
    y: Float[Tensor, "batch d_in"]
    """The targets; `x` itself, the same tensor, where the source has none."""


def default_workers(device: str) -> int:
    """The number of threads: none on a CPU, whose cores the step itself uses."""
    return min(8, max(1, (os.cpu_count() or 1) - 1)) if device.startswith("cuda") else 0


def batches_of(
    source: Source,
    steps: range,
    size: int,
    device: str = "cpu",
    workers: int | None = None,
    spans: Spans = NO_SPANS,
) -> Generator[Pair]:
    """Yields ``source.batch(step, size)`` for every step, with its targets, on `device` in float32.

    A batch depends only on its step, so that `workers` threads can make batches in parallel and copy them to a GPU
    while it computes. An exception of the source is raised at its own step; closing the generator ends the threads.
    Without workers a batch is made when it is needed, as it is where the source computes ahead itself.
    """
    workers = default_workers(device) if workers is None and not source.computes_ahead else workers
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
            # One batch more than there are threads, so that no thread waits for a step to take its batch.
            for later in range(first, steps.stop, steps.step)[: workers + 1 - len(coming)]:
                coming.append(pool.submit(_fetch, source, later, size, device, stream, spans))
            yield coming.popleft().result().take()
    finally:
        pool.shutdown(cancel_futures=True)


@dataclass(frozen=True, eq=False)
class _Fetched:
    """A batch on the device, or on its way there until `arrived`."""

    pair: Pair
    arrived: torch.cuda.Event | None = None

    def take(self) -> Pair:
        """The batch, for work on the calling thread's stream."""
        if self.arrived is not None:
            stream = torch.cuda.current_stream(self.pair.x.device)
            stream.wait_event(self.arrived)
            for samples in self.pair:
                samples.record_stream(stream)
        return self.pair


def _fetch(
    source: Source, step: int, size: int, device: str, stream: torch.cuda.Stream | None, spans: Spans
) -> _Fetched:
    with spans(SPAN):
        if stream is None:
            return _Fetched(_moved(source.batch(step, size), device))
        with torch.cuda.stream(stream):
            pair = _moved(source.batch(step, size), device, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record(stream)
            return _Fetched(pair, arrived)


def _moved(batch: Batch, device: str, non_blocking: bool = False) -> Pair:
    """The batch on the device; with `non_blocking` the host does not wait for the copy."""

    def moved(samples: Tensor) -> Tensor:
        pinned = samples.pin_memory() if non_blocking and samples.device.type == "cpu" else samples
        # Samples are copied in their stored type and converted on the device.
        return pinned.to(device, non_blocking=non_blocking).float()

    x = moved(batch.acts)
    return Pair(x, x if batch.targets is None else moved(batch.targets))
