"""What toy networks are known to do, claim by claim: each study trains some and sets what it measured beside the claim.

One file per family; a study is a function that yields facts, found by looking.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sae.numerics.matching import cosines
from sae.registry import kinds
from sae.sources.network import Config, Hidden


@dataclass(frozen=True)
class Fact:
    """One claim with the figure that the literature or mathematics gives, and ours."""

    claim: str
    expected: str
    measured: str


Study = Callable[[], Iterator[Fact]]


def studies() -> dict[str, Study]:
    """Every study by its name, family by family."""
    return {
        name: function
        for module in kinds("benchmarks.studies").values()
        for name, function in vars(module).items()
        if inspect.isgeneratorfunction(function) and not name.startswith("_") and function.__module__ == module.__name__
    }


def trained(n_features: int, probability: Any, hidden: int | list[int], **settings: Any) -> Hidden:
    """Trained networks; what is not said is as in :class:`sae.sources.network.Config`. `network` and `training` are
    tables; features are independent where no `activity` is given."""
    network = {"hidden": [hidden] if isinstance(hidden, int) else hidden, **settings.pop("network", {})}
    activity = settings.pop("activity", {"kind": "independent", "probability": probability})
    return Config(n_features=n_features, activity=activity, network=network, **settings).build()


def falling(ratio: float) -> dict[str, Any]:
    """Importances ``ratio^i``."""
    return {"kind": "geometric", "ratio": ratio, "first": 1.0}


def best(source: Hidden) -> list[int]:
    """The best instance of each point of `vary`."""
    return [source.best(point) for point in range(len(source.points))]


def spread(values: Tensor) -> str:
    """``median (lowest to highest)`` of several instances."""
    values = values.float()
    return f"{float(values.median()):.3g} ({float(values.min()):.3g} to {float(values.max()):.3g})"


def listed(values: Any, form: str = ".3g") -> str:
    """Numbers, or a tensor's, one after the other."""
    return ", ".join(format(v, form) for v in (values.tolist() if isinstance(values, Tensor) else values))


def among(rows: Tensor) -> Tensor:
    """The cosines of rows with one another."""
    return cosines(rows, rows)


def upper(matrix: Tensor) -> Tensor:
    """What stands above the diagonal."""
    i, j = torch.triu_indices(matrix.shape[-1], matrix.shape[-1], 1)
    return matrix[..., i, j]
