"""Dictionaries whose codes are those of another kind of dictionary: which kinds may serve."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sae.registry import UserError, configurable, unknown


def check_reader(kind: str, settings: Mapping[str, Any]) -> None:
    """Refuses what cannot be the reading half of another dictionary: a kind that is not trained, or wrong settings."""
    readers = configurable("dictionaries")
    if kind not in readers:
        raise UserError(unknown(kind, readers, "kind that reads"))
    readers[kind].KIND.checked(settings)
