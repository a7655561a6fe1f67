"""Captures a step as a CUDA graph and replays it: one launch instead of dozens.

For a small stack, a GPU computes its products faster than they are launched one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor

_Result = TypeVar("_Result")
_PLAIN = 3
"""The number of calls without a graph first, in which kernels are compiled and libraries choose algorithms."""


class Replay(Generic[_Result]):
    """A function of numbers and of tensors of fixed shapes, on a GPU.

    The function receives its arguments in fixed memory, numbers as tensors without dimensions. It must do the same on
    the same memory at every call and never wait for the device; everything that changes between calls is an argument.
    Its result is overwritten by the next call.
    """

    def __init__(self, function: Callable[..., _Result]) -> None:
        self._function = function
        self._inputs: list[Tensor] = []
        self._plain = 0
        self._captured: tuple[torch.cuda.CUDAGraph, _Result] | None = None

    def __call__(self, *arguments: Tensor | float) -> _Result:
        self._copy(arguments)
        if self._captured is None and self._plain < _PLAIN:
            self._plain += 1
            return self._function(*self._inputs)
        # Capturing does not run the function, so that the first graph is replayed too.
        graph, result = self._captured = self._captured or self._capture()
        graph.replay()
        return result

    def _copy(self, arguments: tuple[Tensor | float, ...]) -> None:
        """Copies the arguments to the function's memory. Numbers travel in the launch itself."""
        if not self._inputs:
            like = next(value for value in arguments if isinstance(value, Tensor))
            self._inputs = [torch.empty_like(v) if isinstance(v, Tensor) else like.new_empty(()) for v in arguments]
        for memory, value in zip(self._inputs, arguments, strict=True):
            if not isinstance(value, Tensor):
                memory.fill_(value)
            else:
                assert memory.shape == value.shape, f"captured for {(*memory.shape,)}, called with {(*value.shape,)}"
                memory.copy_(value)

    def _capture(self) -> tuple[torch.cuda.CUDAGraph, _Result]:
        graph, device = torch.cuda.CUDAGraph(), torch.cuda.device_of(self._inputs[0])
        # Threads that fetch batches may allocate meanwhile.
        with device, torch.cuda.graph(graph, capture_error_mode="thread_local"):
            result = self._function(*self._inputs)
        return graph, result
