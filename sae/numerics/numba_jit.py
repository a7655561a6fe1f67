"""How loops are compiled by numba: once for the types they meet, kept on disk, without the interpreter's lock."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Set
from typing import Any

import numba
import torch


def compiled(function: Callable[..., Any], fastmath: Set[str] = frozenset(), **options: Any) -> Any:
    """Compiles a function, bare of the type checks that tests put around it."""
    bare = inspect.unwrap(function)
    compile: Any = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=set(fastmath), **options)  # pyright: ignore[reportUntypedFunctionDecorator]
    return compile(bare)


def threaded(function: Callable[..., Any], fastmath: Set[str] = frozenset()) -> Any:
    """The same, its ``prange`` loops in threads."""
    return compiled(function, fastmath, parallel=True)


def inlined(function: Callable[..., Any], fastmath: Set[str] = frozenset()) -> Any:
    """The same, as a part of whatever compiled function calls it.

    Otherwise there is the function itself and a copy beside every caller, optimised once more, which may order its
    sums in another way; which of them is called depends on what the process has compiled and read from disk before.
    """
    return compiled(function, fastmath, forceinline=True)


def set_threads(threads: int) -> int:
    """The number of threads of numba's loops, as many as it has at most, is set; returned is that before.

    Torch keeps its own number, which numba changes when it starts its threads.
    """
    of_torch = torch.get_num_threads()
    before: int = numba.get_num_threads()
    most: int = numba.config.NUMBA_NUM_THREADS  # pyright: ignore
    numba.set_num_threads(min(threads, most))
    torch.set_num_threads(of_torch)
    return before
