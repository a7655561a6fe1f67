"""The points of a source's `vary` that a figure can lay side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np

from sae.sources.network import Hidden

T = TypeVar("T")


class SweepLine(NamedTuple):
    """Points along one name of `vary`, the others as they are at the point that is read, and what each is called."""

    name: str
    points: list[int]
    labels: list[str]


def line(source: Hidden, name: str | None = None) -> SweepLine:
    """The points along `name`; without one along whatever changes activity, or else along the first that varies. The
    point that is read alone where nothing does."""
    vary, read = source.config.vary, source.config.point
    several = [n for n, values in vary.items() if len(values) > 1]
    several.sort(key=lambda n: not n.startswith("activity"))
    if name is None and several:
        name = several[0]
    if name is None or name not in several:
        return SweepLine("", [read], [""])
    shape = [len(values) for values in vary.values()]
    axis = list(vary).index(name)
    stride, n = prod(shape[axis + 1 :]), shape[axis]
    first = read - (read // stride % n) * stride
    labels = [_words(name, value, i) for i, value in enumerate(vary[name])]
    return SweepLine(name, [first + i * stride for i in range(n)], labels)


def _words(name: str, value: Any, i: int) -> str:
    """A value of a setting, as short as it can be told."""
    short = {"activity.probability": "p"}.get(name, name.rpartition(".")[2].replace("_", " "))
    if isinstance(value, Mapping):
        inner = cast(Mapping[str, Any], value)
        value = next((inner[key] for key in ("values", "value", "ratio", "kind") if key in inner), i)
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = f"(…, {value[-1]:g})" if len(value) else i
    return f"{short} = {value:g}" if isinstance(value, float | int) else f"{short} = {value}"


def thinned(items: Sequence[T], most: int) -> list[T]:
    """At most so many of them, evenly spread, with the first and the last."""
    kept = np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(int)
    return [items[i] for i in kept.tolist()]


def density(source: Hidden, point: int) -> float:
    """In what share of rows a feature is active, mean over features."""
    return float(source.points[point].law().probability(source.config.seed).mean())
