"""A step that is captured once and replayed: one launch where there were dozens.

A small stack keeps a GPU busy for less time than it takes to ask for its products one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor

from sae.registry import UserError

_Result = TypeVar("_Result")
_PLAIN = 3
"""Calls that run as they are, in which kernels are compiled and libraries make their choices."""


class Replay(Generic[_Result]):
    """A function of tensors of fixed shapes and of numbers, on a GPU.

    The function gets its arguments in memory that stays where it is, numbers as tensors without dimensions. It
    must do the same on the same memory at every call, and never wait for the device; whatever changes from call
    to call is an argument. Its result is overwritten by the next call.
    """

    def __init__(self, function: Callable[..., _Result]) -> None:
        self._function = function
        self._held: list[Tensor] = []
        self._plain = 0
        self._captured: tuple[torch.cuda.CUDAGraph, _Result] | None = None

    def __call__(self, *arguments: Tensor | float) -> _Result:
        self._hold(arguments)
        if self._captured is None and self._plain < _PLAIN:
            self._plain += 1
            return self._function(*self._held)
        # To capture is not to run: what was captured just now is replayed like all later.
        graph, result = self._captured = self._captured or self._capture()
        graph.replay()
        return result

    def _hold(self, arguments: tuple[Tensor | float, ...]) -> None:
        """Copies the arguments to where the function looks for them. Numbers travel with the command itself."""
        if not self._held:
            like = next(value for value in arguments if isinstance(value, Tensor))
            self._held = [torch.empty_like(v) if isinstance(v, Tensor) else like.new_empty(()) for v in arguments]
        for held, value in zip(self._held, arguments, strict=True):
            if not isinstance(value, Tensor):
                held.fill_(value)
            elif held.shape == value.shape:
                held.copy_(value)
            else:
                raise UserError(f"captured for {tuple(held.shape)}, called with {tuple(value.shape)}")

    def _capture(self) -> tuple[torch.cuda.CUDAGraph, _Result]:
        graph, device = torch.cuda.CUDAGraph(), torch.cuda.device_of(self._held[0])
        # Threads that fetch rows meanwhile may allocate.
        with device, torch.cuda.graph(graph, capture_error_mode="thread_local"):
            result = self._function(*self._held)
        return graph, result
