"""What settings are called: by what tells them from the others of their kind, and in brief."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import starmap
from typing import Any


def labels_of(settings: Sequence[Mapping[str, Any]], skip: set[str]) -> list[str]:
    """The kind of each, with the fields in which those of its kind differ, so that no two settings of a sweep
    look like seeds of one another; `skip` names fields that have columns of their own."""
    labels: list[str] = []
    for own in settings:
        kind = own.get("kind")  # nested tables need not have any
        alike = [other for other in settings if other.get("kind") == kind]
        differ = [f for f in own if f not in skip and any(other.get(f) != own[f] for other in alike)]
        labels.append(" ".join([*([kind] if kind else []), *(f"{f}={_value(own, alike, f)}" for f in differ)]))
    return labels


def _value(own: Mapping[str, Any], alike: Sequence[Mapping[str, Any]], field: str) -> Any:
    """What one setting has in a field; of a nested table its kind, and what its likes differ in."""
    if not isinstance(own[field], Mapping):
        return own[field]
    tables = [other[field] for other in alike if isinstance(other[field], Mapping)]
    label = labels_of(tables, skip=set())[tables.index(own[field])]
    return f"({label})" if " " in label else label


def brief(methods: Iterable[str]) -> dict[str, str]:
    """Each method with as few of its settings as tell it from the others of its kind, a word without its field:
    ``relu lp`` for ``relu penalty=lp p_anneal=0.8`` where no other has ``penalty=lp``."""
    alike: dict[str, dict[str, dict[str, str]]] = {}
    for method in methods:
        kind, *given = re.split(r" (?![^(]*\))", method)
        pairs = (one.partition("=") for one in given)
        alike.setdefault(kind, {})[method] = {name: value for name, _, value in pairs}
    found: dict[str, str] = {}
    for kind, settings in alike.items():
        for name in reversed(list(dict.fromkeys(name for own in settings.values() for name in own))):
            less = {method: {k: v for k, v in own.items() if k != name} for method, own in settings.items()}
            if len({tuple(own.items()) for own in less.values()}) == len(settings):
                settings = less
        found |= {method: " ".join([kind, *starmap(_told, own.items())]) for method, own in settings.items()}
    return found


def _told(name: str, value: str) -> str:
    return value if value.isidentifier() and value not in ("True", "False", "None") else f"{name}={value}"
