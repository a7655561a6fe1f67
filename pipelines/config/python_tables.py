"""Configs from Python: a dict of the tables of a TOML file, whose values may be tuples, paths, numbers of NumPy and
settings objects."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from sae.numerics.arrays import plain_value
from sae.registry import Settings, UserError


def toml_values(given: Any, where: str = "config") -> Any:
    """The same as a TOML file would hold it: tuples, ranges and arrays as lists, paths as text, a settings object such
    as ``sae.relu(n_latents=64, l1=0.1)`` as the table of what was set. Raises `UserError` for anything else."""
    value = plain_value(given)
    if isinstance(value, Settings):
        fields = type(value).model_fields
        named = {"kind": fields["kind"].default} if "kind" in fields else {}
        return named | value.model_dump(mode="json", exclude_unset=True)
    if isinstance(value, Mapping):
        pairs = cast(Mapping[Any, Any], value).items()
        if wrong := next((key for key, _ in pairs if not isinstance(key, str)), None):
            raise UserError(f"{where}: the key {wrong!r} is no text; name each table and setting")
        # None is how Python leaves a setting out.
        return {key: toml_values(v, f"{where}.{key}") for key, v in pairs if v is not None}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple | range):
        return [toml_values(one, where) for one in cast(Sequence[Any], value)]
    if isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise UserError(f"{where}: {type(value).__name__} {repr(value)[:40]}; give a number, a text, a list or a table")
