"""Functions of the features that toy networks learn to compute, by name.

Features are signed or not, as the source draws them. Tasks on sets use neighbouring features: ``and`` is the AND of (0,
1), of (2, 3), and so on; ``all_and`` is that of every pair. Elhage et al. 2022, 'Toy Models of Superposition'; Jermyn,
Schiefer and Hubinger 2022, 'Engineering Monosemanticity in Toy Models' (``identity``, ``reproject`` and ``absolute``
behind an embedding); Braun et al. 2025 (``plus_relu``: compressed computation).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sae.numerics.seeds import generator
from sae.registry import UserError, unknown

_Rows = Float[Tensor, "*batch n_features"]
Outputs = Float[Tensor, "*batch n_outputs"]

N_CLASSES = 5
"""Number of values that ``one_hot`` distinguishes: 1 to 5."""
REPROJECTED = 8
"""Number of features per output of ``reproject``."""


@dataclass(frozen=True)
class FeatureTask:
    """A function of samples of features that a network learns to compute."""

    target: Callable[[_Rows], Outputs]
    """The function."""
    n_outputs: Callable[[int], int] = lambda n: n
    """The number of outputs for a number of features."""
    size: int = 1
    """The number of features must be a multiple of this."""
    is_binary: bool = False
    """Whether outputs are 0 or 1, so that they can serve as labels for probes."""
    loss: Literal["mse", "cross_entropy"] = "mse"
    """The loss that networks are trained with."""


def task(name: str, n_features: int) -> FeatureTask:
    """The task of this name.

    Raises `UserError` if there is no such task or the number of features does not fit it.
    """
    if name not in TASKS:
        raise UserError(unknown(name, TASKS, "task"))
    known = TASKS[name]
    if n_features % known.size or n_features < known.size:
        raise UserError(f"n_features = {n_features}: task = {name!r} needs a multiple of {known.size}")
    return known


def _sets(size: int) -> Callable[[_Rows], Float[Tensor, "*batch n_sets size"]]:
    def sets(x: _Rows) -> Tensor:
        return x.reshape(*x.shape[:-1], -1, size)

    return sets


def _pairs(x: _Rows) -> Float[Tensor, "*batch n_pairs 2"]:
    """Every pair, (0, 1), (0, 2), ..., (1, 2), ..."""
    first, second = torch.triu_indices(x.shape[-1], x.shape[-1], 1)
    return torch.stack([x[..., first], x[..., second]], dim=-1)


def _both(x: Tensor) -> Tensor:
    return (x > 0).all(-1).to(x.dtype)


def _either(x: Tensor) -> Tensor:
    return (x > 0).any(-1).to(x.dtype)


def _largest(x: Tensor) -> Tensor:
    return x.amax(-1)


def _largest_magnitude(x: Tensor) -> Tensor:
    return x.abs().amax(-1)


def _on(sets: Callable[[_Rows], Tensor], reduce: Callable[[Tensor], Tensor]) -> Callable[[_Rows], Outputs]:
    return lambda x: reduce(sets(x))


def _one_hot(x: _Rows) -> Outputs:
    """One-hot code of the value 1 to 5 of every feature; zeros where the feature is 0."""
    values = torch.arange(1, N_CLASSES + 1, device=x.device)
    return (x.round()[..., None] == values).to(x.dtype).flatten(-2)


def _classified(x: _Rows) -> Outputs:
    """One-hot code of the index of the largest feature; the last class if no feature is active."""
    largest, index = x.max(-1)
    n = x.shape[-1]
    return torch.nn.functional.one_hot(torch.where(largest > 0, index, n), n + 1).to(x.dtype)


@cache
def _projection(n_features: int) -> Float[Tensor, "n_features n_outputs"]:
    rows = torch.randn(n_features, math.ceil(n_features / REPROJECTED), generator=generator("reproject", n_features))
    return rows / rows.norm(dim=1, keepdim=True)


def _of_pairs(n: int) -> int:
    return n * (n - 1) // 2


REDUCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], bool]] = {
    "and": (_both, True),
    "or": (_either, True),
    "max": (_largest, False),
    "max_absolute": (_largest_magnitude, False),
}
"""Functions of a pair of features, and whether they are binary."""

TASKS: dict[str, FeatureTask] = {
    "identity": FeatureTask(lambda x: x),
    "absolute": FeatureTask(lambda x: x.abs()),
    "square": FeatureTask(lambda x: x.square()),
    "plus_relu": FeatureTask(lambda x: x + x.relu()),
    "reproject": FeatureTask(lambda x: x @ _projection(x.shape[-1]).to(x), lambda n: math.ceil(n / REPROJECTED)),
    "one_hot": FeatureTask(_one_hot, lambda n: N_CLASSES * n, is_binary=True),
    "classify": FeatureTask(_classified, lambda n: n + 1, is_binary=True, loss="cross_entropy"),
    "max_of_three": FeatureTask(_on(_sets(3), _largest), lambda n: n // 3, size=3),
    **{name: FeatureTask(_on(_sets(2), f), lambda n: n // 2, 2, yes) for name, (f, yes) in REDUCTIONS.items()},
    **{f"all_{name}": FeatureTask(_on(_pairs, f), _of_pairs, 1, yes) for name, (f, yes) in REDUCTIONS.items()},
}
"""All tasks by name."""


def output_names(name: str, n_features: int) -> list[str]:
    """Display names of the outputs of a task: ``and(0,1)``, ``x3=2``, ``class 4``, ``y7``."""
    n = task(name, n_features).n_outputs(n_features)
    if name == "one_hot":
        return [f"x{i}={v}" for i in range(n_features) for v in range(1, N_CLASSES + 1)]
    if name == "classify":
        return [f"class {i}" for i in range(n_features)] + ["no class"]
    if name in REDUCTIONS:
        return [f"{name}({2 * i},{2 * i + 1})" for i in range(n)]
    if name.removeprefix("all_") in REDUCTIONS:
        pairs = torch.triu_indices(n_features, n_features, 1).T.tolist()
        return [f"{name.removeprefix('all_')}({i},{j})" for i, j in pairs]
    return [f"y{i}" for i in range(n)]
