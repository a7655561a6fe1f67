"""Checks the kind whose encoder is part of another dictionary (``standardised``, ``transcoder``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sae.registry import UserError, configurable, unknown


def check_reader(kind: str, settings: Mapping[str, Any]) -> None:
    """Raises `UserError` where `kind` is not a trained kind or the settings are not its own."""
    readers = configurable("dictionaries")
    if kind not in readers:
        raise UserError(unknown(kind, readers, "reader"))
    readers[kind].KIND.checked(settings)
