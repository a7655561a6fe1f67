"""The conditions under which probes are fitted: few rows, a rare class, noisy labels, a distribution shift.

The regimes of Kantamneni et al. 2025. They change the training rows only; test rows stay the same.

    standard   `n_train` random rows
    scarcity   n = 2 ... 1024 rows, half of them positive
    imbalance  a share .05 ... .95 of positive rows, with the largest number of rows that is possible at every share
    noise      `standard` with a share 0 ... .5 of the labels flipped, those of the validation rows included
    shift      the probes of `standard`, scored on rows of another distribution

Draws are nested: the rows of a smaller level are among those of a larger one, so that levels differ by little except
the level itself.
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
"""Default levels of `scarcity`: 2 to 1024 rows."""
SHARES = tuple(np.linspace(0.05, 0.95, 19).round(2).tolist())
"""Default levels of `imbalance`: .05 to .95."""
FLIPS = tuple(np.linspace(0, 0.5, 11).round(2).tolist())
"""Default levels of `noise`: 0 to .5."""


class Regimes(Settings):
    """The regimes of a study and their levels."""

    regimes: tuple[Regime, ...] = Field(default=("standard", "scarcity"), min_length=1)
    """The regimes to run."""
    n_train: int = Field(default=1024, ge=4)
    """The most training rows of all regimes but `scarcity`."""
    scarcity: tuple[int, ...] = SIZES
    """The numbers of training rows in `scarcity`."""
    imbalance: tuple[float, ...] = SHARES
    """The shares of positive training rows in `imbalance`."""
    noise: tuple[float, ...] = FLIPS
    """The shares of flipped labels in `noise`."""


class Draw(NamedTuple):
    """The training rows of a task in one condition."""

    regime: Regime
    """The regime."""
    level: float
    """The level of the regime; 0 in `standard`."""
    place: NDArray[np.int64]
    """The indices of the rows among the task's training rows."""
    positive: NDArray[np.bool_]
    """The labels that probes are fitted to."""


def draws(regimes: Regimes, task: ProbeTask, seed: int) -> Iterator[Draw]:
    """Every condition for which the task has enough rows. `shift` has no draw of its own: it is scored with
    `standard`."""
    rows, path = task.train, (task.name, seed)
    requested = set(regimes.regimes)
    whole = random_rows(rows, regimes.n_train, *path)
    if requested & {"standard", "shift"}:
        yield Draw("standard", 0.0, whole, rows.positive[whole])
    if "scarcity" in requested:
        for n in regimes.scarcity:
            if (place := at_share(rows, n, 0.5, *path)) is not None:
                yield Draw("scarcity", float(n), place, rows.positive[place])
    if "imbalance" in requested:
        n = n_rows_at_every_share(rows, regimes.imbalance, regimes.n_train)
        for share in regimes.imbalance:
            if (place := at_share(rows, n, share, *path)) is not None:
                yield Draw("imbalance", share, place, rows.positive[place])
    if "noise" in requested:
        for share in regimes.noise:
            yield Draw("noise", share, whole, flipped(rows.positive[whole], share, *path))


def random_rows(rows: PropertyRows, n: int, *path: str | int) -> NDArray[np.int64]:
    """`n` random places, or as many as there are."""
    return _order(len(rows.positive), "all", *path)[:n]


def at_share(rows: PropertyRows, n: int, share: float, *path: str | int) -> NDArray[np.int64] | None:
    """`n` places in random order, ``round(n share)`` of them positive but at least one of each class; None if the task
    has too few rows of a class."""
    if n < 2:
        return None
    n_positive = min(max(round(n * share), 1), n - 1)
    chosen: list[NDArray[np.int64]] = []
    for positive, n_class in ((True, n_positive), (False, n - n_positive)):
        of_class = np.flatnonzero(rows.positive == positive)
        if len(of_class) < n_class:
            return None
        chosen.append(of_class[_order(len(of_class), str(positive), *path)[:n_class]])
    place = np.concatenate(chosen)
    return place[_order(n, "mixed", n_positive, *path)]


def n_rows_at_every_share(rows: PropertyRows, shares: Sequence[float], most: int) -> int:
    """The largest number of rows, up to `most`, that the task has at every share of positive rows."""
    n_positive, n_all = int(rows.positive.sum()), len(rows.positive)
    fits = [n_positive / s for s in shares if s > 0] + [(n_all - n_positive) / (1 - s) for s in shares if s < 1]
    return int(min([most, *fits]))


def flipped(positive: NDArray[np.bool_], share: float, *path: str | int) -> NDArray[np.bool_]:
    """The labels with exactly ``round(n share)`` of them flipped."""
    out = positive.copy()
    at = _order(len(positive), "flipped", *path)[: round(len(positive) * share)]
    out[at] = ~out[at]
    return out


def permuted(positive: NDArray[np.bool_], *path: str | int) -> NDArray[np.bool_]:
    """The labels in random order, a control."""
    return positive[_order(len(positive), "permuted", *path)]


def _order(n: int, *path: str | int) -> NDArray[np.int64]:
    return np.random.default_rng(derive("probing", *path)).permutation(n)
