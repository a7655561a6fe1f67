"""Kinds of a noun: one file each, found by looking, named by the file.

A singular module (``sae/source.py``) defines a noun, the folder beside it (``sae/sources/``) holds its
kinds. A kind that a config can name has a ``Config``: a frozen pydantic model whose ``kind`` is the file's name. There
is no list to keep in step: a new file is a new kind.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable
from functools import lru_cache
from types import ModuleType
from typing import Annotated, Any, ClassVar, Union

from pydantic import BaseModel, ConfigDict, Field, model_serializer


class UserError(ValueError):
    """A mistake of the user in one line: the field, the value, what is wrong and what to do.

    The command line prints it and exits with code 2; any other exception is a bug and keeps its traceback.
    """


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder that the user named does not exist."""


class Settings(BaseModel):
    """A frozen set of settings that refuses unknown keys and infinities."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class VersionedSettings(Settings):
    """Settings with fields that came `later`, when runs had been made without them; each class names its own.

    At their default those are not written, so that what does not use them keeps the key that it had before.
    """

    later: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _written(self, dump: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        fields = type(self).model_fields
        later = {name for cls in type(self).__mro__ for name in vars(cls).get("later", ())}
        return {k: v for k, v in dump(self).items() if k not in later or v != fields[k].default}


@lru_cache
def kinds(package: str) -> dict[str, ModuleType]:
    """The kinds in a folder of kinds, by name, e.g. ``kinds("sae.sources")["independent"]``."""
    folder = importlib.import_module(package)
    names = sorted(m.name for m in pkgutil.iter_modules(folder.__path__) if not m.name.startswith("_"))
    return {name: importlib.import_module(f"{package}.{name}") for name in names}


def config_class(package: str, kind: str) -> type[Settings]:
    """The ``Config`` of one kind; a ``ValueError`` names the nearest kinds where there is none."""
    found = configurable(package)
    if kind not in found:
        raise UserError(unknown(kind, found, f"kind of {package.rpartition('.')[2]}"))
    return found[kind].Config


def configurable(package: str) -> dict[str, ModuleType]:
    """The kinds of a folder that a config can name."""
    return {name: module for name, module in kinds(package).items() if hasattr(module, "Config")}


def one_of(package: str) -> Any:
    """The tagged union of every ``Config`` in a folder of kinds, for a pydantic field."""
    configs = tuple(module.Config for module in configurable(package).values())
    if len(configs) == 1:  # pydantic refuses a discriminated union of one
        return configs[0]
    return Annotated[Union[configs], Field(discriminator="kind")]  # noqa: UP007


def unknown(name: str, known: Any, what: str) -> str:
    """One line that says that `name` is no `what`, with the nearest names that are."""
    names = [str(k) for k in known]
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"choose from {', '.join(names)}"
    return f"{name!r} is not a known {what}: {hint}"
