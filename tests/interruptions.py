"""Ends work in the midst of it, as Ctrl-C would."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def interrupted_at(nth: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, whose `nth` call is interrupted before it does anything."""
    calls = 0

    def call(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == nth:
            raise KeyboardInterrupt
        return function(*arguments)

    return call
