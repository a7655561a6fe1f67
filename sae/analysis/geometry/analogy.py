"""Analogies by vector arithmetic: a is to b as c is to d if ``W_b - W_a + W_c`` is nearest to W_d.

Mikolov et al. 2013, 'Linguistic regularities in continuous space word representations': king - man + woman = queen.
Every analogy holds if rows are sums of attributes, and only by chance if they have no such structure. As in the paper,
a, b and c are excluded from the search; the nearest row of all is often c itself, so `rank_among_all` gives the result
without that exclusion.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae.numerics.matching import unit
from sae.registry import UserError


class Analogies(NamedTuple):
    """Results for each analogy ``(a, b, c, d)``."""

    nearest: Int[Tensor, " n_analogies"]
    """The row nearest to ``W_b - W_a + W_c``, except a, b and c."""
    cosine: Float[Tensor, " n_analogies"]
    """The cosine of that row with ``W_b - W_a + W_c``."""
    rank: Int[Tensor, " n_analogies"]
    """How many rows are nearer than d, except a, b and c; 0 if d is the nearest."""
    rank_among_all: Int[Tensor, " n_analogies"]
    """How many rows are nearer than d, including a, b and c."""

    @property
    def accuracy(self) -> float:
        """The share of analogies whose nearest row is d."""
        return float((self.rank == 0).double().mean())


def analogies(rows: Float[Tensor, "n d"], quadruples: Tensor) -> Analogies:
    """Tests every analogy ``a : b = c : d``; `quadruples` ``[n_analogies, 4]`` holds the row numbers of a, b, c and d.

    Raises `UserError` if a number is not that of a row, or if d is one of a, b and c.
    """
    if quadruples.ndim != 2 or quadruples.shape[1] != 4 or len(quadruples) == 0:
        raise UserError(f"quadruples: shape {list(quadruples.shape)}; give the row numbers of a, b, c and d, [n, 4]")
    if int(quadruples.min()) < 0 or int(quadruples.max()) >= len(rows):
        least, most = int(quadruples.min()), int(quadruples.max())
        raise UserError(f"quadruples: numbers from {least} to {most}; give numbers of rows, 0 to {len(rows) - 1}")
    a, b, c, d = quadruples.unbind(1)
    if bool(((d == a) | (d == b) | (d == c)).any()):
        raise UserError("quadruples: d equals a, b or c in at least one analogy; give a d that differs from them")
    rows = rows.float()
    cosine = unit(rows[b] - rows[a] + rows[c]) @ unit(rows).T
    others = cosine.scatter(1, quadruples[:, :3], -torch.inf)
    best, nearest = others.max(1)
    target = cosine.gather(1, d[:, None])
    return Analogies(nearest, best, (others > target).sum(1), (cosine > target).sum(1))
