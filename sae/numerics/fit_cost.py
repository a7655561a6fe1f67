"""The cost of fitting a dictionary, computed from settings and sample counts, never from a measured time.

Every method states its formula where it computes the cost; a refinement or an encoder fitted later adds its cost to
that of the dictionary. The cost is the same on every machine, and is stored on a dictionary's card as ``spent``;
dictionaries of other projects have none. Iterations count as made or, where rows stop when they have converged, as
allowed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class FitCost(NamedTuple):
    """The cost of fitting a dictionary: distinct samples, processed samples and multiply-adds."""

    rows: int = 0
    """Distinct training samples that were used, at most."""
    samples: int = 0
    """Training samples that were processed, counting repeats."""
    multiply_adds: int = 0
    """Estimated multiply-adds of the dense products; twice as many floating-point operations."""

    @classmethod
    def of(cls, card: Mapping[str, Any]) -> FitCost | None:
        """The cost on a card, None if it has none."""
        entry = card.get("spent")
        return None if entry is None else cls(**entry)

    @classmethod
    def training(cls, samples: int, multiply_adds: int, n_rows: int | None) -> FitCost:
        """The cost of processing `samples` samples of a source with `n_rows` distinct ones (None: unlimited)."""
        return cls(samples if n_rows is None else min(samples, n_rows), samples, multiply_adds)

    def plus(self, more: FitCost, n_rows: int | None) -> FitCost:
        """The sum with `more`, which used other samples of the same source as far as there are any."""
        rows = self.rows + more.rows
        totals = self.samples + more.samples, self.multiply_adds + more.multiply_adds
        return FitCost(rows if n_rows is None else min(rows, n_rows), *totals)

    def card_entry(self) -> dict[str, dict[str, int]]:
        """The cost as an entry of a card."""
        return {"spent": self._asdict()}


def eigenvectors(n: int) -> int:
    """Multiply-adds to find all eigenvectors of a symmetric ``n x n`` matrix (Golub and Van Loan 2013, section 8.3)."""
    return 9 * n**3 // 2
