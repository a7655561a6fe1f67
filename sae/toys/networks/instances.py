"""The instances that a source trains: every point of a grid of settings, with several seeds at each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, TypeVar, cast

from pydantic import ValidationError

from sae.registry import Settings, UserError

_C = TypeVar("_C", bound=Settings)

VARIED = (
    "activity",
    "values",
    "importance",
    "network.dropout",
    "network.hidden_l1",
    "network.hidden_bias_start",
    "training.weight_decay",
)
"""Settings that may differ between networks that are trained together; the others change their shape."""


def points(config: _C, vary: Mapping[str, Sequence[Any]]) -> list[_C]:
    """The settings at every point of the grid of values in `vary`; the last name varies fastest.

    Raises `UserError` if a setting cannot be varied or a value is invalid.
    """
    if not vary:
        return [config]
    for name in vary:
        if not any(name == root or name.startswith(f"{root}.") for root in VARIED):
            raise UserError(f"vary: {name!r} changes the network's shape or is no setting; vary {', '.join(VARIED)}")
    table = config.model_dump() | {"vary": {}, "point": 0}
    grid = [dict(zip(vary, values, strict=True)) for values in product(*vary.values())]
    return [_at(type(config), table, point) for point in grid]


def _at(cls: type[_C], table: Mapping[str, Any], point: Mapping[str, Any]) -> _C:
    changed = dict(table)
    for path, value in point.items():
        _set(changed, path.split("."), value, path)
    try:
        return cls(**changed)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"])) or "vary"
        raise UserError(f"vary: at {dict(point)}: {where}: {problem['msg'].removeprefix('Value error, ')}") from None


def _set(table: dict[str, Any], path: Sequence[str], value: Any, name: str) -> None:
    """Sets a value in nested tables, copying the inner tables."""
    if len(path) == 1:
        table[path[0]] = value
        return
    inner = table.get(path[0])
    if not isinstance(inner, dict):
        raise UserError(f"vary: {name!r} is not a setting: {path[0]!r} is not a table of settings; correct the name")
    table[path[0]] = copy = dict(cast(Mapping[str, Any], inner))
    _set(copy, path[1:], value, name)
