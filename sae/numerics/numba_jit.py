"""Decorators that compile loops with numba: cached on disk, without the interpreter's lock."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Set
from typing import Any

import numba
import torch


def compiled(function: Callable[..., Any], fastmath: Set[str] = frozenset(), **options: Any) -> Any:
    """Compiles a function, without the type checks that the tests wrap around it."""
    unwrapped = inspect.unwrap(function)
    compile: Any = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=set(fastmath), **options)  # pyright: ignore[reportUntypedFunctionDecorator]
    return compile(unwrapped)


def threaded(function: Callable[..., Any], fastmath: Set[str] = frozenset()) -> Any:
    """Compiles a function whose ``prange`` loops run in several threads."""
    return compiled(function, fastmath, parallel=True)


def inlined(function: Callable[..., Any], fastmath: Set[str] = frozenset()) -> Any:
    """Compiles a function that is inlined into every compiled caller.

    Otherwise numba keeps both the function and a copy for every caller, whose sums may be ordered differently; which
    one is called depends on what the process has compiled or loaded from the cache before.
    """
    return compiled(function, fastmath, forceinline=True)


def set_threads(threads: int) -> int:
    """Sets the number of threads of numba's loops, at most as many as it has, and returns the previous number.

    The number of threads of torch, which numba changes when it starts its threads, is restored.
    """
    of_torch = torch.get_num_threads()
    before: int = numba.get_num_threads()
    most: int = numba.config.NUMBA_NUM_THREADS  # pyright: ignore
    numba.set_num_threads(min(threads, most))
    torch.set_num_threads(of_torch)
    return before
