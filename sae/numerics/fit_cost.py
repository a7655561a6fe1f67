"""What a dictionary has cost to fit: numbers of settings and of rows, never a measured time.

    rows           different training rows that were looked at, at most
    samples        training rows that were worked on, counting every repeat
    multiply_adds  of the dense products that this took, an estimate; half as many as floating point operations

Whatever fits directions or encoders states them by a formula of its own, told where it is computed, and what follows
on a dictionary (a refinement, an encoder fitted after the fact) adds its own to what there was. They stand on a
dictionary's card as ``spent``, the same on every machine; a dictionary from elsewhere has none. Numbers of iterations
are those that were made, or, where each row stops when it has converged, those that were allowed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class FitCost(NamedTuple):
    """Rows, samples and multiply-adds."""

    rows: int = 0
    samples: int = 0
    multiply_adds: int = 0

    @classmethod
    def of(cls, card: Mapping[str, Any]) -> FitCost | None:
        """What a card tells; None where it tells nothing."""
        told = card.get("spent")
        return None if told is None else cls(**told)

    @classmethod
    def training(cls, samples: int, multiply_adds: int, n_rows: int | None) -> FitCost:
        """`samples` rows of a source that has `n_rows` different ones, endlessly many where that is None."""
        return cls(samples if n_rows is None else min(samples, n_rows), samples, multiply_adds)

    def plus(self, more: FitCost, n_rows: int | None) -> FitCost:
        """This and `more`, which took its rows elsewhere in the same source as long as there were others."""
        rows = self.rows + more.rows
        both = self.samples + more.samples, self.multiply_adds + more.multiply_adds
        return FitCost(rows if n_rows is None else min(rows, n_rows), *both)

    def card_entry(self) -> dict[str, dict[str, int]]:
        """The entry of a card."""
        return {"spent": self._asdict()}


def eigenvectors(n: int) -> int:
    """Multiply-adds of all eigenvectors of a symmetric ``n x n`` matrix (Golub and Van Loan 2013, section 8.3)."""
    return 9 * n**3 // 2
