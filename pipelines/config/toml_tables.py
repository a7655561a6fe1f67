"""From TOML tables to settings: overrides, sweeps, and validation errors in one line."""

from __future__ import annotations

import copy
import json
import math
import re
import tomllib
import types
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import product
from typing import Annotated, Any, TypeVar, Union, cast, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from sae.registry import Settings, UserError, problem_of, unknown, wrong_value

S = TypeVar("S", bound=Settings)
Table = dict[str, Any]
Overrides = Sequence[str] | Mapping[str, Any]
"""Values in place of a config's: ``["train.steps=200"]`` with values as TOML, or ``{"train.steps": 200}``."""
MOST_SETTINGS = 20_000
"""The largest number of settings of one sweep, and of dictionaries that one run scores."""

_MOST_NESTED = 50
"""The largest number of tables and lists inside one another. What is nested more deeply can be read, not copied."""


def load_toml(text: str) -> Table:
    """The content of a TOML text. Raises `ValueError` if it is none, `RecursionError` if it is nested too deeply."""
    table = tomllib.loads(text)
    level: list[Any] = [table]
    for _ in range(_MOST_NESTED):
        level = [inside for value in level for inside in _inside(value)]
    if level:
        raise RecursionError
    return table


def _inside(value: Any) -> Collection[Any]:
    """The values in a table or list; none in any other value."""
    if isinstance(value, dict):
        return cast(Table, value).values()
    return cast(list[Any], value) if isinstance(value, list) else ()


def override(table: Mapping[str, Any], overrides: Overrides) -> Table:
    """A copy of `table` with each override set; for ``[[tables]]`` it is set in every one.

    Raises `UserError` where an override is malformed or leads through a value.
    """
    result = copy.deepcopy(dict(table))
    for path, value, written in _assignments(overrides):
        *parents, name = path.strip().split(".")
        if not all([*parents, name]):
            raise UserError(f"{written}: not key.path=value; write for example --set train.steps=200")
        places: list[Any] = [result]
        for parent in parents:
            children = [place.setdefault(parent, {}) for place in places]
            places = [p for c in children for p in (cast(list[Any], c) if isinstance(c, list) else [c])]
            if not all(isinstance(place, dict) for place in places):
                raise UserError(f"{written}: {parent!r} is a value, not a table; correct the key")
        for place in places:
            place[name] = copy.deepcopy(value)
    return result


def _assignments(overrides: Overrides) -> Iterator[tuple[str, Any, str]]:
    """Path, value and how it was written of each override."""
    if isinstance(overrides, Mapping):
        for path, value in overrides.items():
            yield path, value, f"set {path!r}"
        return
    for assignment in overrides:
        path, equals, text = assignment.partition("=")
        if not equals or not path.strip():
            raise UserError(f"--set {assignment}: not key.path=value; write for example --set train.steps=200")
        yield path, value_of(text.strip(), assignment), f"--set {assignment}"


def merge_tables(table: Mapping[str, Any], over: Mapping[str, Any]) -> Table:
    """A copy of `table` in which the values of `over` replace those of the same key, recursively.

    A table in `over` for ``[[tables]]`` is merged into every one. A table with a different ``kind`` replaces the whole.
    """
    result = copy.deepcopy(dict(table))
    for name, value in over.items():
        here = result.get(name)
        if isinstance(value, dict) and isinstance(here, list):
            result[name] = [merge_tables(one, cast(Table, value)) for one in cast(list[Table], here)]
        elif (
            isinstance(value, dict)
            and isinstance(here, dict)
            and here.get("kind") == value.get("kind", here.get("kind"))
        ):
            result[name] = merge_tables(cast(Table, here), cast(Table, value))
        else:
            result[name] = copy.deepcopy(value)
    return result


def value_of(text: str, assignment: str) -> Any:
    """Parses a TOML value; a bare word, such as a path, is a string. Raises `UserError` for anything else."""
    try:
        return load_toml(f"value = {text}")["value"]
    except RecursionError:
        raise UserError(f"--set {assignment[:40]}...: nested too deeply; write it less nested") from None
    except ValueError:
        if re.fullmatch(r"""[^\s"'\[\]{},=#]+""", text):
            return text
        raise UserError(
            f"--set {assignment}: {text!r} is neither a TOML value nor a bare word; "
            "quote text, for example --set 'title=\"two words\"'"
        ) from None


def expand(cls: type[Settings], table: Mapping[str, Any], where: str) -> list[Table]:
    """The settings of a sweep: the product over every list given in place of a single value.

    Raises `UserError` for an empty list.
    """
    axes = {name: value for name, value in table.items() if _is_swept(cls, name, value)}
    for name, values in axes.items():
        if not values:
            raise UserError(f"{where}.{name} = []: a sweep over no values; give at least one value")
    check_number({f"{where}.{name}": len(values) for name, values in axes.items()}, "settings of a sweep")
    return [{**table, **dict(zip(axes, values, strict=True))} for values in product(*axes.values())]


def check_number(lengths: Mapping[str, int], what: str) -> None:
    """Raises `UserError` where the product of the lengths of lists, by the names of their settings, is above
    :data:`MOST_SETTINGS`."""
    n = math.prod(lengths.values())
    if n > MOST_SETTINGS:
        factors = " x ".join(f"{name} ({length:,})" for name, length in lengths.items() if length > 1)
        raise UserError(f"{factors}: {n:,} {what}, more than {MOST_SETTINGS:,}; shorten a list, or make several runs")


def _is_swept(cls: type[Settings], name: str, value: Any) -> bool:
    """Whether a value is a list to sweep over, and not the value of a field that takes lists."""
    if not isinstance(value, list) or name not in cls.model_fields:
        return False
    items = cast(list[Any], value)
    return not _takes_lists(cls.model_fields[name].annotation) or any(isinstance(item, list) for item in items)


def _takes_lists(annotation: Any) -> bool:
    """Whether the type of a field accepts a list."""
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return any(_takes_lists(choice) for choice in get_args(annotation))
    if origin is Annotated:
        return _takes_lists(get_args(annotation)[0])
    cls = origin or annotation
    return isinstance(cls, type) and issubclass(cls, Collection) and not issubclass(cls, str | bytes | Mapping)


def build(cls: type[S], table: Mapping[str, Any], where: str) -> S:
    """Validates `table`; `where` is its path in the file, for messages. Raises `UserError` for the first mistake."""
    try:
        return cls.model_validate(table)
    except ValidationError as error:
        raise UserError(_message(error.errors()[0], cls, where)) from None


def _message(mistake: ErrorDetails, cls: type[Settings], where: str) -> str:
    """One line for a validation error of pydantic: field, value, what is wrong."""
    path, table_type = _resolve(cls, [str(part) for part in mistake["loc"]])
    field = ".".join([where, *path] if where else path)
    if mistake["type"] == "extra_forbidden":
        table = field.rpartition(".")[0]
        return f"{field}: {unknown(path[-1], _keys(table_type), f'key of [{table}]' if table else 'key')}"
    if mistake["type"] == "union_tag_not_found":
        return f"{field}.kind is missing: give it a value"
    if mistake["type"] == "union_tag_invalid":
        kinds = [c.model_fields["kind"].default for c in _choices(table_type)]
        return f"{field}: {unknown(str(mistake.get('ctx', {})['tag']), kinds, 'kind')}"
    message = problem_of(mistake).replace("valid tuple", "list")
    message = message.replace("valid dictionary", "table").replace("Tuple", "the list")
    if not path:  # a rule between fields: its message names them
        return f"{where}: {message}"
    if mistake["type"] == "value_error" and isinstance(mistake["input"], Mapping):  # the same in a nested table
        return f"{field}: {message}"
    return wrong_value(mistake, field, repr(mistake["input"]), message)


def _resolve(cls: type[Settings], path: Sequence[str]) -> tuple[list[str], Any]:
    """The keys as the user wrote them, from pydantic's path to a mistake, and the type of the innermost table.

    Where a field takes tables of several kinds, pydantic's path has the kind as an additional part.
    """
    keys: list[str] = []
    table_type: Any = cls
    for part in path:
        named = {c.model_fields["kind"].default: c for c in _choices(table_type) if "kind" in c.model_fields}
        if len(named) > 1 and part in named:
            table_type = named[part]
            continue
        keys.append(part)
        if part in _keys(table_type):
            table_type = _keys(table_type)[part].annotation
    return keys, table_type


def _choices(annotation: Any) -> list[type[Settings]]:
    """The settings classes that a field accepts."""
    if get_origin(annotation) in (Union, types.UnionType, Annotated):
        return [cls for choice in get_args(annotation) for cls in _choices(choice)]
    return [annotation] if isinstance(annotation, type) and issubclass(annotation, Settings) else []


def _keys(annotation: Any) -> Mapping[str, Any]:
    """The known keys of a table; empty where it may be of several types."""
    choices = _choices(annotation)
    return choices[0].model_fields if len(choices) == 1 else {}


def toml_value(value: Any) -> str:
    """A value as TOML writes it in one line."""
    if isinstance(value, Mapping):
        pairs = cast(Mapping[str, Any], value).items()
        return "{" + ", ".join(f"{k} = {toml_value(v)}" for k, v in pairs) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml_value(v) for v in cast(Sequence[Any], value)) + "]"
    return json.dumps(value, ensure_ascii=False)
