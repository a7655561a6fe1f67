"""The quiver: the probe that validation would have one take, and whether a dictionary's probes make it a better one.

For each task and condition the method with the best validation AUC is taken and its test AUC counts (Kantamneni et al.
2025): once among the probes on the activations, once among those and a dictionary's, once among the dictionary's alone.
Taking the best by its test AUC instead would flatter whoever has more methods.

The trap: where no method has a validation AUC (see :mod:`sae.probing.validation`) or several share the best, the first
in a stated order is taken, the probes on the activations before a dictionary's, and the choice is marked. In the
published code the validation AUC of three rows or fewer is that of the training rows, 1 for nearly every method, so
that the order of a list decides unseen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from sae.probing.study import ProbeResult
from sae.probing.validation import Why

_Cell = tuple[str, str, float, int]
"""Task, regime, level and seed."""

CONTROLS = ("shuffled", "untrained_")


class QuiverChoice(NamedTuple):
    """What a quiver took in one cell, and what decided."""

    result: ProbeResult
    why: Why


def is_control(method: str) -> bool:
    """Whether a method is there to be beaten and never to be taken."""
    return method.startswith(CONTROLS)


def cell_of(result: ProbeResult) -> _Cell:
    return result.task, result.regime, result.level, result.seed


def _cells(results: Iterable[ProbeResult]) -> Mapping[_Cell, list[ProbeResult]]:
    """The results by task and condition, each in the order given."""
    found: dict[_Cell, list[ProbeResult]] = {}
    for result in results:
        found.setdefault(cell_of(result), []).append(result)
    return found


def quiver(results: Iterable[ProbeResult]) -> dict[_Cell, QuiverChoice]:
    """What is taken in each cell; the order of the results is the prior order of their methods."""
    usable = (r for r in results if not is_control(r.method))
    return {cell: take(candidates) for cell, candidates in _cells(usable).items()}


def take(candidates: Sequence[ProbeResult]) -> QuiverChoice:
    """The best by validation, the earliest of those that tie; without any validation, the first."""
    judged = [r for r in candidates if not math.isnan(r.val_auc)]
    if not judged:
        return QuiverChoice(candidates[0], "prior")
    best = max(r.val_auc for r in judged)
    first, *others = [r for r in judged if r.val_auc == best]
    return QuiverChoice(first, "tie" if others else "validation")
