"""Full and short display names for settings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import starmap
from typing import Any


def counted(n: int, noun: str, plural: str = "") -> str:
    """A number with its noun: ``1 latent``, ``8 latents``."""
    return f"{n} {noun if n == 1 else plural or noun + 's'}"


def labels_of(settings: Sequence[Mapping[str, Any]], skip: set[str]) -> list[str]:
    """Labels such as ``relu lr=0.001``: the kind of each, with the fields in which settings of that kind differ.

    Every setting of a sweep gets its own label, so that none is taken for another seed of a different one. Fields in
    `skip` are left out, because tables show them in separate columns.
    """
    by_kind: dict[Any, list[int]] = {}  # under None the settings of a nested table without kinds
    for i, setting in enumerate(settings):
        by_kind.setdefault(setting.get("kind"), []).append(i)
    labels = [""] * len(settings)
    for kind, members in by_kind.items():
        same_kind = [settings[i] for i in members]
        fields = dict.fromkeys(name for setting in same_kind for name in setting if name not in skip)
        differ = [f for f in fields if any(other.get(f) != same_kind[0].get(f) for other in same_kind)]
        values = {field: _values(same_kind, field) for field in differ}
        for k, i in enumerate(members):
            words = [f"{field}={values[field][k]}" for field in settings[i] if field in values]
            labels[i] = " ".join([*([kind] if kind else []), *words])
    return labels


def _values(same_kind: Sequence[Mapping[str, Any]], field: str) -> list[Any]:
    """The value of a field in each setting; for a nested table its label among those of the same field."""
    values = [setting.get(field) for setting in same_kind]
    labels = iter(labels_of([value for value in values if isinstance(value, Mapping)], skip=set()))
    return [_in_brackets(next(labels)) if isinstance(value, Mapping) else value for value in values]


def _in_brackets(label: str) -> str:
    return f"({label})" if " " in label else label


def short_labels(methods: Iterable[str]) -> dict[str, str]:
    """Maps each label of a method to a short one, which keeps only as many settings as distinguish it from the others
    of its kind, and leaves out the names of fields whose value is a word.

    For example ``relu penalty=lp p_anneal=0.8`` becomes ``relu lp`` where no other method has ``penalty=lp``.
    """
    by_kind: dict[str, dict[str, dict[str, str]]] = {}
    for method in methods:
        kind, *words = re.split(r" (?![^(]*\))", method)
        pairs = (word.partition("=") for word in words)
        by_kind.setdefault(kind, {})[method] = {name: value for name, _, value in pairs}
    labels: dict[str, str] = {}
    for kind, settings in by_kind.items():
        for name in reversed(list(dict.fromkeys(name for fields in settings.values() for name in fields))):
            fewer = {method: {k: v for k, v in fields.items() if k != name} for method, fields in settings.items()}
            if len({tuple(fields.items()) for fields in fewer.values()}) == len(settings):
                settings = fewer
        labels |= {method: " ".join([kind, *starmap(_word, fields.items())]) for method, fields in settings.items()}
    return labels


def _word(name: str, value: str) -> str:
    """A field of a short label: the value alone where it is a word."""
    return value if value.isidentifier() and value not in ("True", "False", "None") else f"{name}={value}"
