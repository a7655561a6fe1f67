"""Results that are computed once per object and forgotten with it."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

Of = TypeVar("Of")
Others = ParamSpec("Others")
Result = TypeVar("Result")


def once_per_object(
    function: Callable[Concatenate[Of, Others], Result],
) -> Callable[Concatenate[Of, Others], Result]:
    """Keeps the results of a function as long as its first argument lives, which the results must not refer to.

    Unlike ``lru_cache``, it keeps no object alive. All arguments must be hashable.
    """
    known: WeakKeyDictionary[Any, dict[Any, Any]] = WeakKeyDictionary()

    @wraps(function)
    def cached(of: Of, /, *args: Others.args, **kwargs: Others.kwargs) -> Result:
        results = known.setdefault(of, {})
        key = (args, tuple(sorted(kwargs.items())))
        if key not in results:
            results[key] = function(of, *args, **kwargs)
        return results[key]

    return cached
