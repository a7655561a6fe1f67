"""Under which conditions probes are fitted: few rows, a rare class, wrong labels, another distribution.

The regimes of Kantamneni et al. 2025, on training rows alone; what is scored stays as it is.

    standard   `n_train` rows as they come
    scarcity   n = 2 ... 1024 rows, half of them positive
    imbalance  a share .05 ... .95 of positive rows among as many as the task can give at every share
    noise      `standard` with a share 0 ... .5 of the labels flipped, those of the validation rows included
    shift      the probes of `standard`, scored on rows of another distribution

Draws are nested: the rows of a smaller level are among those of a larger one, so that levels differ by what they are
about and by little else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sae.numerics.seeds import derive
from sae.probing.examples import ProbeTask, PropertyRows
from sae.registry import Settings

Regime = Literal["standard", "scarcity", "imbalance", "noise", "shift"]
SIZES = tuple(np.unique(np.logspace(1, 10, 20, base=2).astype(int)).tolist())
SHARES = tuple(np.linspace(0.05, 0.95, 19).round(2).tolist())
FLIPS = tuple(np.linspace(0, 0.5, 11).round(2).tolist())


class Regimes(Settings):
    """Which regimes, at which levels. `n_train` bounds the rows of all but `scarcity`."""

    regimes: tuple[Regime, ...] = Field(default=("standard", "scarcity"), min_length=1)
    n_train: int = Field(default=1024, ge=4)
    scarcity: tuple[int, ...] = SIZES
    imbalance: tuple[float, ...] = SHARES
    noise: tuple[float, ...] = FLIPS


class Draw(NamedTuple):
    """Training rows of a task in one condition: their places among the task's, and the labels that probes see."""

    regime: Regime
    level: float
    place: NDArray[np.int64]
    positive: NDArray[np.bool_]


def draws(regimes: Regimes, task: ProbeTask, seed: int) -> Iterator[Draw]:
    """Every condition that the task has rows for. `shift` is no draw of its own: it is scored with `standard`."""
    rows, path = task.train, (task.name, seed)
    asked = set(regimes.regimes)
    whole = as_they_come(rows, regimes.n_train, *path)
    if asked & {"standard", "shift"}:
        yield Draw("standard", 0.0, whole, rows.positive[whole])
    if "scarcity" in asked:
        for n in regimes.scarcity:
            if (place := at_share(rows, n, 0.5, *path)) is not None:
                yield Draw("scarcity", float(n), place, rows.positive[place])
    if "imbalance" in asked:
        n = enough_for(rows, regimes.imbalance, regimes.n_train)
        for share in regimes.imbalance:
            if (place := at_share(rows, n, share, *path)) is not None:
                yield Draw("imbalance", share, place, rows.positive[place])
    if "noise" in asked:
        for share in regimes.noise:
            yield Draw("noise", share, whole, flipped(rows.positive[whole], share, *path))


def as_they_come(rows: PropertyRows, n: int, *path: str | int) -> NDArray[np.int64]:
    """`n` places at random, or as many as there are."""
    return _order(len(rows.positive), "all", *path)[:n]


def at_share(rows: PropertyRows, n: int, share: float, *path: str | int) -> NDArray[np.int64] | None:
    """`n` places in random order, ``round(n share)`` of them positive but one of each class at least; None where
    the task has too few rows of a class."""
    if n < 2:
        return None
    n_positive = min(max(round(n * share), 1), n - 1)
    kept: list[NDArray[np.int64]] = []
    for positive, wanted in ((True, n_positive), (False, n - n_positive)):
        own = np.flatnonzero(rows.positive == positive)
        if len(own) < wanted:
            return None
        kept.append(own[_order(len(own), str(positive), *path)[:wanted]])
    place = np.concatenate(kept)
    return place[_order(n, "mixed", n_positive, *path)]


def enough_for(rows: PropertyRows, shares: Sequence[float], most: int) -> int:
    """The largest number of rows, up to `most`, that the task can give at every share."""
    n_positive, n_all = int(rows.positive.sum()), len(rows.positive)
    fits = [n_positive / s for s in shares if s > 0] + [(n_all - n_positive) / (1 - s) for s in shares if s < 1]
    return int(min([most, *fits]))


def flipped(positive: NDArray[np.bool_], share: float, *path: str | int) -> NDArray[np.bool_]:
    """The labels with exactly ``round(n share)`` of them turned round."""
    out = positive.copy()
    turned = _order(len(positive), "flipped", *path)[: round(len(positive) * share)]
    out[turned] = ~out[turned]
    return out


def permuted(positive: NDArray[np.bool_], *path: str | int) -> NDArray[np.bool_]:
    """The labels in another order: what is left is chance."""
    return positive[_order(len(positive), "permuted", *path)]


def _order(n: int, *path: str | int) -> NDArray[np.int64]:
    return np.random.default_rng(derive("probing", *path)).permutation(n)
