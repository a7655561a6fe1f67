"""Seconds on the wall. Work on a GPU is waited for."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def seconds(work: Callable[[], object], device: str = "cpu") -> float:
    """How long one call takes."""
    settle(device)
    begin = time.perf_counter()
    work()
    settle(device)
    return time.perf_counter() - begin


def mean_seconds(work: Callable[[], object], device: str = "cpu", at_least: float = 0.1) -> float:
    """The mean over as many calls as take about `at_least` seconds, three at the least, timed as one stretch.

    A stretch and not the median of single calls: whatever else the machine does falls on it as it falls on a
    stretch of training, where short calls would slip through.
    """
    work()
    n = max(3, round(at_least / max(seconds(work, device), 1e-9)))

    def stretch() -> None:
        for _ in range(n):
            work()

    return seconds(stretch, device) / n


def settle(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
