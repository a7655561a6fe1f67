"""The quiver of arrows: selection of the method with the best validation AUC, with and without a dictionary's probes.

For each task and condition the method with the best validation AUC is selected and scored by its test AUC (Kantamneni
et al. 2025): among the probes on the activations, among those and the dictionary's, and among the dictionary's alone.
Selecting by test AUC instead would favour the set with more methods.

If no method has a validation AUC (see :mod:`sae.probing.validation`) or several share the best, the first in a fixed
order is selected, with the probes on the activations before a dictionary's, and the choice is marked. In the published
code the validation AUC with three rows or fewer is the training AUC, 1 for nearly every method, so that the order of a
list decides silently.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from sae.probing.study import ProbeResult
from sae.probing.validation import SelectionReason

_Cell = tuple[str, str, float, int]
"""Task, regime, level and seed."""

CONTROLS = ("shuffled", "untrained_")
"""Prefixes of the names of control methods."""


class QuiverChoice(NamedTuple):
    """The selected method in one cell."""

    result: ProbeResult
    """The result of the method."""
    why: SelectionReason
    """What decided."""


def is_control(method: str) -> bool:
    """Whether a method is a control, which is never selected."""
    return method.startswith(CONTROLS)


def cell_of(result: ProbeResult) -> _Cell:
    """The cell of a result: task, regime, level and seed."""
    return result.task, result.regime, result.level, result.seed


def _cells(results: Iterable[ProbeResult]) -> Mapping[_Cell, list[ProbeResult]]:
    """The results of each cell, in their order."""
    cells: dict[_Cell, list[ProbeResult]] = {}
    for result in results:
        cells.setdefault(cell_of(result), []).append(result)
    return cells


def quiver(results: Iterable[ProbeResult]) -> dict[_Cell, QuiverChoice]:
    """The selected method in each cell; the order of the results is the prior order of their methods."""
    usable = (r for r in results if not is_control(r.method))
    return {cell: best_by_validation(candidates) for cell, candidates in _cells(usable).items()}


def best_by_validation(candidates: Sequence[ProbeResult]) -> QuiverChoice:
    """The candidate with the best validation AUC, the earliest of those that tie; the first if none has one."""
    validated = [r for r in candidates if not math.isnan(r.val_auc)]
    if not validated:
        return QuiverChoice(candidates[0], "prior")
    best = max(r.val_auc for r in validated)
    first, *others = [r for r in validated if r.val_auc == best]
    return QuiverChoice(first, "tie" if others else "validation")
