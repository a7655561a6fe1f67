"""Rows of a norm far above the others', such as those of attention sinks."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Bool, Float
from torch import Tensor

N_MEDIAN = 16_384
"""The number of rows of whose norms the median is taken."""


def norm_limit(rows: Float[Tensor, "rows width"], multiple: float) -> float:
    """`multiple` times the median of the norms of the first :data:`N_MEDIAN` rows; infinite without rows."""
    first = rows[:N_MEDIAN]
    return multiple * float(first.float().norm(dim=-1).median()) if len(first) else float("inf")


def within_norm(rows: Float[Tensor, "*rows width"], limit: float) -> Bool[Tensor, "*rows"]:
    """Which rows have a norm of at most `limit`."""
    return rows.float().norm(dim=-1) <= limit


def edit_within_norm(edit: Callable[[Tensor], Tensor], limit: float) -> Callable[[Tensor], Tensor]:
    """An edit of rows that leaves those of a norm above `limit` as they are."""

    def edited(rows: Tensor) -> Tensor:
        within = within_norm(rows, limit)
        result = rows.clone()
        result[within] = edit(rows[within]).to(result)
        return result

    return edited
