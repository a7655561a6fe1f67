"""How loops are compiled by numba: once for the types they meet, kept on disk, without the interpreter's lock."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Set
from typing import Any

import numba


def compiled(function: Callable[..., Any], parallel: bool = False, fastmath: Set[str] = frozenset()) -> Any:
    """Compiles a function, bare of the type checks that tests put around it."""
    bare = inspect.unwrap(function)
    compile: Any = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=set(fastmath), parallel=parallel)  # pyright: ignore[reportUntypedFunctionDecorator]
    return compile(bare)


def threaded(function: Callable[..., Any], fastmath: Set[str] = frozenset()) -> Any:
    """The same, its ``prange`` loops in threads."""
    return compiled(function, parallel=True, fastmath=fastmath)
