"""The fields of a model of settings: name, type, default and description."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from sae_reference.text import code_cell, markdown, one_line, table

REQUIRED = "required"
BOUNDS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}


class Field(NamedTuple):
    """One setting, as the reference shows it."""

    name: str
    type: str
    default: str
    description: str


def fields(model: type[BaseModel]) -> list[Field]:
    """The settings of a model but for ``kind``, which is the heading."""
    return [
        Field(name, _type_with_bounds(field), _default(field), field.description or "")
        for name, field in model.model_fields.items()
        if name != "kind" or not isinstance(field.default, str)
    ]


def fields_table(model: type[BaseModel]) -> str:
    """The settings of a model as a table; one sentence where there are none."""
    rows = [
        (
            code_cell(f.name),
            code_cell(f.type),
            f.default if f.default == REQUIRED else code_cell(f.default),
            one_line(f.description),
        )
        for f in fields(model)
    ]
    return table(("field", "type", "default", "meaning"), rows) if rows else "It has no settings."


def nested(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """The models that fields of a model hold, directly or not, in order, each once."""
    seen: list[type[BaseModel]] = []

    def walk(one: type[BaseModel]) -> None:
        for field in one.model_fields.values():
            for other in _models(field.annotation):
                if other not in seen:
                    seen.append(other)
                    walk(other)

    walk(model)
    yield from seen


def nested_sections(models: list[type[BaseModel]], level: int = 3) -> str:
    """A heading, the docstring and the fields of each model."""
    parts: list[str] = []
    for one in models:
        kind = kind_name(one)
        heading = f"`{label(one)}`" + (f' (`kind = "{kind}"`)' if kind else "")
        parts.append(f"{'#' * level} {heading}\n\n{own_docstring(one)}\n\n{fields_table(one)}")
    return "\n\n".join(parts)


def kind_name(model: type[BaseModel]) -> str:
    """What ``kind`` says of a model that is one of several; empty where it has no kind."""
    field = model.model_fields.get("kind")
    return field.default if field is not None and isinstance(field.default, str) else ""


def label(model: type[BaseModel]) -> str:
    """The name of a model: its class, or its kind where every kind's class is called ``Config``."""
    return kind_name(model) if model.__name__ == "Config" else model.__name__


def own_docstring(model: type[BaseModel]) -> str:
    """The docstring of a class as Markdown, without that of a parent and the name of its table."""
    text = re.sub(r"^``\[+\w+\]+``: (\w)", lambda start: start[1].upper(), vars(model).get("__doc__") or "")
    return markdown(text)


def type_text(annotation: Any) -> str:
    """A type as a reader of a config writes it: without modules and validators."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return type_text(arguments[0])
    if origin is Literal:
        return " | ".join(f'"{a}"' if isinstance(a, str) else str(a) for a in arguments)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(dict.fromkeys(type_text(a) for a in arguments))
    if annotation is type(None):
        return "None"
    if annotation is Ellipsis:
        return "..."
    if annotation is Any:
        return "any"
    if origin is tuple and arguments[1:] == (Ellipsis,):
        return f"list[{type_text(arguments[0])}]"
    if origin is dict and arguments[1] is Any:
        return "table"
    if isinstance(annotation, type) and issubclass(annotation, PurePath):
        return "path"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return label(annotation)
    if origin is not None:
        return f"{type_text(origin)}[{', '.join(type_text(a) for a in arguments)}]"
    alias = getattr(annotation, "__value__", None)  # `type X = ...`
    return type_text(alias) if alias is not None else getattr(annotation, "__name__", str(annotation))


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    is_model = isinstance(annotation, type) and issubclass(annotation, BaseModel)
    if is_model and not inspect.isabstract(annotation):  # the kinds of an interface have a page of their own
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _models(argument)


def _type_with_bounds(field: FieldInfo) -> str:
    bounds = [
        f"{sign} {value}"
        for m in field.metadata
        for key, sign in BOUNDS.items()
        if (value := getattr(m, key, None)) is not None
    ]
    return ", ".join([type_text(field.annotation), *bounds])


def _default(field: FieldInfo) -> str:
    if field.default_factory is not None:
        return _shown(typing.cast(Any, field.default_factory)())
    return REQUIRED if field.default is PydanticUndefined else _shown(field.default)


def _shown(value: Any) -> str:
    """A default as a config writes it."""
    if isinstance(value, BaseModel):
        changed = value.model_dump(exclude_defaults=True)
        kind = {"kind": getattr(value, "kind", None)} if "kind" in type(value).model_fields else {}
        return f"{{{', '.join(f'{key} = {_shown(v)}' for key, v in (kind | changed).items())}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_shown, value))}]"
    if isinstance(value, (str, PurePath)):
        return f'"{value}"'
    return str(value).lower() if isinstance(value, bool) else repr(value)
