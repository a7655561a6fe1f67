"""Points of a source's `vary` along one name, to be compared in a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np

from sae.sources.network import Hidden

T = TypeVar("T")


class SweepLine(NamedTuple):
    """Points along one name of `vary`; the other names have the values of the source's own point."""

    name: str
    """The name; empty for a single point."""
    points: list[int]
    """Indices of the points."""
    labels: list[str]
    """Short text for each point, such as ``p = 0.1``."""


def line(source: Hidden, name: str | None = None) -> SweepLine:
    """The points along `name`, by default along the first name that changes activity, else the first that varies.

    The source's own point alone if `name` does not vary.
    """
    vary, point = source.config.vary, source.config.point
    several = [n for n, values in vary.items() if len(values) > 1]
    several.sort(key=lambda n: not n.startswith("activity"))
    if name is None and several:
        name = several[0]
    if name is None or name not in several:
        return SweepLine("", [point], [""])
    shape = [len(values) for values in vary.values()]
    axis = list(vary).index(name)
    stride, n = prod(shape[axis + 1 :]), shape[axis]
    first = point - (point // stride % n) * stride
    labels = [_label(name, value, i) for i, value in enumerate(vary[name])]
    return SweepLine(name, [first + i * stride for i in range(n)], labels)


def _label(name: str, value: Any, i: int) -> str:
    """A setting and its value as short text."""
    short = {"activity.probability": "p"}.get(name, name.rpartition(".")[2].replace("_", " "))
    if isinstance(value, Mapping):
        inner = cast(Mapping[str, Any], value)
        value = next((inner[key] for key in ("values", "value", "ratio", "kind") if key in inner), i)
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = f"(…, {value[-1]:g})" if len(value) else i
    return f"{short} = {value:g}" if isinstance(value, float | int) else f"{short} = {value}"


def thinned(items: Sequence[T], most: int) -> list[T]:
    """At most `most` of the items, evenly spaced, including the first and the last."""
    indices = np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(int)
    return [items[i] for i in indices.tolist()]


def density(source: Hidden, point: int) -> float:
    """Share of samples in which a feature is active, mean over features."""
    return float(source.points[point].law().probability(source.config.seed).mean())
