"""Studies of published claims about toy networks: each trains networks and compares the measured values with the claim.

There is one file per family. Every public generator function in these files is a study, which yields facts.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.lines import Line, emit, note
from sae.numerics.matching import cosines
from sae.registry import UserError, kinds, unknown
from sae.sources.network import Config, Hidden


@dataclass(frozen=True)
class Fact:
    """A measured quantity and its expected value."""

    claim: str
    """What is measured."""
    expected: str
    """The value in the literature or in closed form; empty if there is none."""
    measured: str
    """The value measured here."""


Study = Callable[[], Iterator[Fact]]


def studies() -> dict[str, Study]:
    """All studies by name, in order of the families."""
    return generators("benchmarks.studies")


def generators(package: str) -> dict[str, Callable[..., Iterator[Fact]]]:
    """The public generator functions of all modules of a package, by name."""
    return {
        name: function
        for module in kinds(package).values()
        for name, function in vars(module).items()
        if inspect.isgeneratorfunction(function) and not name.startswith("_") and function.__module__ == module.__name__
    }


def printed(
    benchmark: str, names: Sequence[str], every: Mapping[str, Callable[..., Iterator[Fact]]], *given: Any
) -> list[Line]:
    """Prints every fact of the named studies, of all without a name, which are called with what is given.

    Raises `UserError` for an unknown name.
    """
    for name in names:
        if name not in every:
            raise UserError(unknown(name, every, "study"))
    lines: list[Line] = []
    for name in names or every:
        note(name)
        about = " ".join((every[name].__doc__ or "").split())
        facts = every[name](*given)
        lines += [emit(benchmark, {"study": name, "about": about, **asdict(fact)}) for fact in facts]
    return lines


def trained(n_features: int, probability: Any, hidden: int | list[int], **settings: Any) -> Hidden:
    """A source of trained networks, with `settings` of :class:`sae.sources.network.Config`. Features are independent
    unless there is an `activity`."""
    network = {"hidden": [hidden] if isinstance(hidden, int) else hidden, **settings.pop("network", {})}
    activity = settings.pop("activity", {"kind": "independent", "probability": probability})
    return Config(n_features=n_features, activity=activity, network=network, **settings).build()


def falling(ratio: float) -> dict[str, Any]:
    """Importances ``ratio^i``."""
    return {"kind": "geometric", "ratio": ratio, "first": 1.0}


def best(source: Hidden) -> list[int]:
    """The index of the best instance for each point of `vary`."""
    return [source.best(point) for point in range(len(source.points))]


def spread(values: Tensor) -> str:
    """The values of several instances as ``median (lowest to highest)``."""
    values = values.float()
    return f"{float(values.median()):.3g} ({float(values.min()):.3g} to {float(values.max()):.3g})"


def listed(values: Any, form: str = ".3g") -> str:
    """Numbers, or the entries of a tensor, separated by commas."""
    return ", ".join(format(v, form) for v in (values.tolist() if isinstance(values, Tensor) else values))


def among(rows: Tensor) -> Tensor:
    """Cosines between all pairs of rows."""
    return cosines(rows, rows)


def upper(matrix: Tensor) -> Tensor:
    """The entries above the diagonal."""
    i, j = torch.triu_indices(matrix.shape[-1], matrix.shape[-1], 1)
    return matrix[..., i, j]
