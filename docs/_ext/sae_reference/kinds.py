"""The kinds of each interface: what a kind is, in the words of its module, and its settings."""

from __future__ import annotations

from types import ModuleType

from pydantic import BaseModel

import sae.registry
from sae_reference.settings import fields_table, nested, nested_sections
from sae_reference.text import markdown


def kinds_of(interface: str) -> dict[str, ModuleType]:
    """The kinds of an interface that ship with the package, by name."""
    return {
        name: module
        for name, module in sae.registry.kinds(interface).items()
        if module.__name__.startswith(("sae.", "pipelines."))
    }


def kinds_page(interface: str) -> str:
    """A section for every kind, then one for every table that their settings hold."""
    parts: list[str] = []
    inner: list[type[BaseModel]] = []
    for name, module in kinds_of(interface).items():
        config: type[BaseModel] | None = getattr(module, "Config", None)
        parts.append(f"## `{name}`\n\n{markdown(module.__doc__)}")
        parts.append("It is read from files and cannot be trained." if config is None else fields_table(config))
        inner += [one for one in nested(config) if one not in inner] if config else []
    if inner:
        parts.append("## Tables within these settings\n\n" + nested_sections(inner))
    return "\n\n".join(parts)


def questions() -> str:
    """A section for every question of `sae ask`."""
    return kinds_page("pipelines.questions")
