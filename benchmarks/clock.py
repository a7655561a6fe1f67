"""Wall-clock time, after work on a GPU has finished."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def seconds(work: Callable[[], object], device: str = "cpu") -> float:
    """The wall-clock time of one call."""
    settle(device)
    begin = time.perf_counter()
    work()
    settle(device)
    return time.perf_counter() - begin


def mean_seconds(work: Callable[[], object], device: str = "cpu", at_least: float = 0.1) -> float:
    """The mean time per call over a series of about `at_least` seconds, of at least three calls.

    The series is timed as a whole, not by the median of single calls, so that other load on the machine slows it as
    much as it slows a series of training steps.
    """
    work()
    n = max(3, round(at_least / max(seconds(work, device), 1e-9)))

    def series() -> None:
        for _ in range(n):
            work()

    return seconds(series, device) / n


def settle(device: str) -> None:
    """Waits until a GPU has finished its work."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
