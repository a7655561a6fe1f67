"""Settings as frozen pydantic models, and mistakes of a user as one line."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_serializer
from pydantic_core import ErrorDetails


class UserError(ValueError):
    """A mistake of the user in one line: the field, the value, what is wrong and what to do.

    The command line prints it and exits with code 2; any other exception is a bug and keeps its traceback.
    """


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder that the user named does not exist."""


class Settings(BaseModel):
    """A frozen set of settings that refuses unknown keys and infinities.

    The docstring of a field is its description in the reference.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class VersionedSettings(Settings):
    """Settings some of whose fields were added after runs had been made without them.

    A field named in `later` is left out of the written settings while it has its default, so that runs that do not use
    it keep their keys. Each class names its own fields.
    """

    later: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, dump: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        fields = type(self).model_fields
        later = {name for cls in type(self).__mro__ for name in vars(cls).get("later", ())}
        return {k: v for k, v in dump(self).items() if k not in later or v != fields[k].default}


class KindSettings(Settings):
    """Base of the settings of a kind: every interface has one abstract subclass, which names its `interface`."""

    interface: ClassVar[str] = ""
    """The folder of the kinds: ``sources``, ``dictionaries``, ``encoders``, ``baselines`` or ``metrics``."""


_S = TypeVar("_S", bound=Settings)


def checked_settings(cls: type[_S], given: Mapping[str, Any], others: Iterable[str] = ()) -> _S:
    """The settings that a call was given by name; `others` are the names that the call takes beside them.

    Raises `UserError` in one line: for an unknown name the nearest known ones, for a wrong value what is wrong.
    """
    for name, value in given.items():
        if name not in cls.model_fields:
            known = [*(field for field in cls.model_fields if field != "kind"), *others]
            raise UserError(f"{name} = {_short(value)}: {unknown(name, known, 'setting')}")
    try:
        return cls(**given)
    except ValidationError as error:
        mistake = error.errors()[0]
    if not mistake["loc"]:  # a rule between fields: its message names them
        raise UserError(problem_of(mistake))
    field = ".".join(map(str, mistake["loc"]))
    raise UserError(wrong_value(mistake, field, _short(mistake["input"]), problem_of(mistake)))


def problem_of(mistake: ErrorDetails) -> str:
    """What pydantic says of a mistake, on one line."""
    return " ".join(mistake["msg"].removeprefix("Value error, ").split())


def wrong_value(mistake: ErrorDetails, field: str, value: str, problem: str) -> str:
    """One line for a field that is missing, or that has a wrong value."""
    if mistake["type"] == "missing":
        return f"{field} is missing: give it a value"
    return f"{field} = {value}: {problem[0].lower()}{problem[1:]}"


def _short(value: Any) -> str:
    """The representation of a value on one line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def unknown(name: str, known: Any, what: str) -> str:
    """One line that says that `name` is not a known `what`, with the nearest that are, or the first thirty."""
    names = [str(k) for k in known]
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"choose from {_first(names)}"
    return f"{name!r} is not a known {what}: {hint}"


def _first(names: list[str], n: int = 30) -> str:
    """The names as a list of at most `n`, which ends with the number of those left out."""
    return ", ".join(names[:n]) + (f" and {len(names) - n} others" if len(names) > n else "")


def same_type(value: Any, default: Any) -> bool:
    """Whether a value has the type of a default; numbers must be finite and not negative."""
    if isinstance(default, bool) or isinstance(value, bool):
        return type(value) is type(default)
    if isinstance(default, int):
        return isinstance(value, int) and 0 <= value < 2**48
    if isinstance(default, float):
        return isinstance(value, int | float) and 0 <= value < float("inf")
    if isinstance(default, tuple):
        return isinstance(value, list | tuple) and all(type(n) is int and n > 0 for n in value)
    return isinstance(value, str if isinstance(default, str) else Mapping)
