"""Decorators that compile loops with numba: cached on disk, without the interpreter's lock.

Where no folder for the cache can be written, as in many containers, the loops are compiled in every process. A cache
that cannot be read or written later, such as on a full disk, is treated in the same way.
"""

from __future__ import annotations

import inspect
import pickle
import warnings
from collections.abc import Callable, Set
from functools import cache
from typing import Any

import numba
import torch
from numba.core.caching import FunctionCache


def compiled(function: Callable[..., Any], fastmath: Set[str] = frozenset(), **options: Any) -> Any:
    """Compiles a function, without the type checks that the tests wrap around it."""
    unwrapped = inspect.unwrap(function)
    compile: Any = numba.njit(nogil=True, error_model="numpy", fastmath=set(fastmath), **options)  # pyright: ignore[reportUntypedFunctionDecorator]
    dispatcher = compile(unwrapped)
    if hasattr(dispatcher, "enable_caching"):  # not with NUMBA_DISABLE_JIT, which leaves plain functions
        try:
            dispatcher._cache = _OptionalCache(unwrapped)  # as enable_caching does
        except RuntimeError as error:
            if "no locator available" not in str(error):
                raise
            _warn_uncached("no writable folder for the cache")
    return dispatcher


class _OptionalCache(FunctionCache):
    """numba's cache of one function, which may fail: then the function is compiled, and the result not kept."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            return _warn_uncached(_reason(error))

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            _warn_uncached(_reason(error))


@cache
def _warn_uncached(reason: str) -> None:
    """Warns in one line, once in a process for each reason."""
    message = f"loops are compiled in every process ({reason}); set NUMBA_CACHE_DIR to a folder that can be written"
    warnings.warn_explicit(message, RuntimeWarning, __name__, 1)  # warn() would add a line of source code


def _reason(error: Exception) -> str:
    """The cause without the name of the file, which differs between functions."""
    return getattr(error, "strerror", None) or type(error).__name__


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
