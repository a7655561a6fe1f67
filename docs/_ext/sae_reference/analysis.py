"""An index of the analyses: every module of `sae.analysis`, and what it offers."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from pkgutil import walk_packages
from types import ModuleType
from typing import Any

import sae.analysis
from sae_reference.text import code_cell, markdown, one_line, table

SHORT = {"sae.analysis.attribution", "sae.analysis.edits"}
"""Short names of other modules, which have the sections."""


def modules() -> list[ModuleType]:
    """Every module with functions or classes of its own, in the order of their names."""
    names = [info.name for info in walk_packages(sae.analysis.__path__, "sae.analysis.")]
    found = [import_module(name) for name in names if name not in SHORT]
    return [module for module in found if any(own(module))]


def own(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """The public functions and classes that a module defines, in their order."""
    for name, value in vars(module).items():
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__ and callable(value):
            yield name, value


def analyses() -> str:
    """A section for every folder, and in it one for every module."""
    parts: list[str] = []
    folder = None
    for module in modules():
        path = module.__name__.removeprefix("sae.analysis.").split(".")
        if len(path) > 1 and path[0] != folder:
            folder = path[0]
            parts.append(f"## {folder.replace('_', ' ').capitalize()}")
            parts.append(markdown(import_module(f"sae.analysis.{folder}").__doc__))
        parts.append(f"{'###' if len(path) > 1 else '##'} `{module.__name__}`\n\n{markdown(module.__doc__)}")
        parts.append(table(("name", "what it does"), [_row(name, value) for name, value in own(module)]))
    return "\n\n".join(parts)


def _row(name: str, value: Any) -> tuple[str, str]:
    """A line of the table: the name with its parameters, and the first paragraph of what it does."""
    parameters = "" if isinstance(value, type) else f"({', '.join(inspect.signature(value).parameters)})"
    described = re.split(r"\n\s*\n", inspect.getdoc(value) or "")[0]
    return code_cell(f"{name}{parameters}"), one_line(described)
