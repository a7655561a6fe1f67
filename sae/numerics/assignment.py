"""The best one-to-one assignment between rows and columns by a similarity that is computed in blocks.

Small matrices are solved by the Hungarian algorithm. Of larger ones only the :data:`CANDIDATES` largest similarities of
each element of the smaller side are kept, the assignment over these is solved (Jonker and Volgenant 1987, in the sparse
form of scipy), and its dual solution ``a_i + b_j >= s_ij`` is compared with all other similarities, in blocks. Pairs
that break it are added, and the assignment is solved again. If none does, the assignment is the best of all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

DENSE_PAIRS = 2**25
"""The most pairs whose similarities are held at once: 128 MB, and four times that while they are assigned."""
CANDIDATES = 16
"""Similarities of each element of the smaller side that are kept at first, and the most that are added in a round."""
MOST_ROUNDS = 12
"""How often pairs are added before an assignment is reported as unproven."""
DUAL_TOLERANCE = 1e-6
"""How far a similarity may exceed the dual solution: the rounding of cosines in float32."""
_SHIFT = 4.0
"""Added to costs, since scipy leaves out edges of weight 0; every full assignment has as many edges."""


class Similarity(ABC):
    """Similarities, at most 1 in size, between rows and columns, computed for ranges of columns."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """The numbers of rows and columns."""

    @abstractmethod
    def block(self, columns: slice) -> Float[Tensor, "rows block"]:
        """The similarities of all rows with a range of columns."""

    @abstractmethod
    def transposed(self) -> Similarity:
        """The same with rows and columns exchanged."""

    def blocks(self) -> Iterator[tuple[int, Float[Tensor, "rows block"]]]:
        """All similarities, at most `DENSE_PAIRS` of them at once, each block with its first column."""
        size = max(1, DENSE_PAIRS // max(1, self.shape[0]))
        for begin in range(0, self.shape[1], size):
            yield begin, self.block(slice(begin, min(begin + size, self.shape[1])))


@dataclass(frozen=True, eq=False)
class Absolute(Similarity):
    """The absolute values of similarities."""

    signed: Similarity
    """The similarities."""

    @property
    def shape(self) -> tuple[int, int]:
        return self.signed.shape

    def block(self, columns: slice) -> Float[Tensor, "rows block"]:
        return self.signed.block(columns).abs()

    def transposed(self) -> Absolute:
        return Absolute(self.signed.transposed())


@dataclass(frozen=True, eq=False)
class Assignment:
    """A one-to-one assignment with the largest sum of similarities."""

    column: Int[Tensor, " rows"]
    """The column of each row, -1 for none."""
    value: Float[Tensor, " rows"]
    """The similarity to it; 0 for none."""
    unproven: float
    """The share of the smaller side with a pair that might still raise the sum; 0 where the assignment is proven."""


def assign(similarity: Similarity) -> Assignment:
    """The best assignment; every element of the smaller side has a partner."""
    n_rows, n_columns = similarity.shape
    if n_rows * n_columns <= DENSE_PAIRS:
        s = similarity.block(slice(0, n_columns))
        column = one_to_one(s)
        value = s.gather(1, column.clamp_min(0)[:, None])[:, 0] if s.numel() else s.new_zeros(n_rows)
        return Assignment(column, value * (column >= 0), 0.0)
    if n_rows > n_columns:
        found = assign(similarity.transposed())
        has = (found.column >= 0).nonzero()[:, 0]
        column = torch.full((n_rows,), -1, dtype=torch.int64, device=has.device)
        value = found.value.new_zeros(n_rows)
        column[found.column[has]], value[found.column[has]] = has, found.value[has]
        return Assignment(column, value, found.unproven)
    return _sparse(similarity)


def one_to_one(similarity: Float[Tensor, "rows columns"]) -> Int[Tensor, " rows"]:
    """The column of each row in the assignment with the largest sum, -1 for none (Hungarian algorithm)."""
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(similarity.cpu().numpy(), maximize=True)
    partner = torch.full((len(similarity),), -1, dtype=torch.int64)
    partner[torch.from_numpy(rows)] = torch.from_numpy(columns)
    return partner.to(similarity.device)


def _sparse(similarity: Similarity) -> Assignment:
    """The best assignment of at least as many columns as rows, over kept pairs until no other pair can raise it."""
    pairs = _largest(similarity, None)
    for left in reversed(range(MOST_ROUNDS)):
        column, value, duals = _solved(pairs, *similarity.shape)
        more = _largest(similarity, duals)
        if left == 0 or len(more.row) == 0:
            break
        pairs = _Pairs(*(torch.cat(both) for both in zip(pairs, more, strict=True)))
    else:
        raise AssertionError("MOST_ROUNDS is at least 1")
    device = similarity.block(slice(0, 1)).device
    unproven = len(more.row.unique()) / similarity.shape[0]
    return Assignment(column.to(device), value.float().to(device), unproven)


class _Pairs(NamedTuple):
    """Kept pairs with their similarities, on the CPU."""

    row: Int[Tensor, " pairs"]
    column: Int[Tensor, " pairs"]
    value: Float[Tensor, " pairs"]


class _Duals(NamedTuple):
    """``a_i + b_j >= s_ij`` for all kept pairs, with equality for those that are assigned; ``b_j >= 0``."""

    a: Float[Tensor, " rows"]
    b: Float[Tensor, " columns"]

    def excess(self, s: Float[Tensor, "rows block"], begin: int) -> Float[Tensor, "rows block"]:
        """By how much similarities break the inequality. In float64: a row without a partner has a large dual."""
        a, b = self.a.to(s.device), self.b[begin : begin + s.shape[1]].to(s.device)
        return s.double().sub_(a[:, None]).sub_(b)


def _largest(similarity: Similarity, duals: _Duals | None) -> _Pairs:
    """The largest similarities of each row, or those that exceed the duals most, if any does."""
    key, column, value = (None,) * 3
    for begin, s in similarity.blocks():
        excess = s if duals is None else duals.excess(s, begin)
        top = excess.topk(min(CANDIDATES, s.shape[1]), dim=1)
        found = (top.values, top.indices + begin, s.gather(1, top.indices))
        if key is not None and column is not None and value is not None:
            both = [torch.cat(pair, dim=1) for pair in zip((key, column, value), found, strict=True)]
            best = both[0].topk(min(CANDIDATES, both[0].shape[1]), dim=1)
            found = (best.values, *(part.gather(1, best.indices) for part in both[1:]))
        key, column, value = found
    assert key is not None and column is not None and value is not None
    kept = key > (-torch.inf if duals is None else DUAL_TOLERANCE)
    row = kept.nonzero()[:, 0]
    return _Pairs(row.cpu(), column[kept].cpu(), value[kept].double().cpu())


def _solved(pairs: _Pairs, n_rows: int, n_columns: int) -> tuple[Tensor, Tensor, _Duals]:
    """The best assignment over the kept pairs: the column of each row (-1 for none), its similarity, the duals."""
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import min_weight_full_bipartite_matching

    every = torch.arange(n_rows)
    row, column = torch.cat([pairs.row, every]), torch.cat([pairs.column, n_columns + every])
    # Each row may stay without a partner, so that there is a solution, at a cost that no other partners are worth.
    nobody = 2.0 * n_rows + 2
    cost = torch.cat([_SHIFT - pairs.value, torch.full((n_rows,), _SHIFT + nobody, dtype=torch.float64)])
    graph = csr_matrix((cost.numpy(), (row.numpy(), column.numpy())), shape=(n_rows, n_columns + n_rows))
    _, partner = min_weight_full_bipartite_matching(graph)
    partner = torch.from_numpy(partner.astype(np.int64))
    has, owner = partner < n_columns, torch.full((n_columns,), -1, dtype=torch.int64)
    owner[partner[has]] = every[has]
    is_partner = partner[pairs.row] == pairs.column
    value = torch.full((n_rows,), -nobody, dtype=torch.float64)
    value[pairs.row[is_partner]] = pairs.value[is_partner]
    # The smallest b: a column is worth what its owner's best rival would gain by it, along all chains of rivals.
    rivals = (owner[pairs.column] >= 0) & ~is_partner
    i, j = pairs.row[rivals], pairs.column[rivals]
    gain = pairs.value[rivals] - value[i]
    b = torch.zeros(n_columns + n_rows, dtype=torch.float64)
    for _ in range(n_rows + 1):
        before = b.clone()
        b.scatter_reduce_(0, j, before[partner[i]] + gain, "amax")
        if bool((b <= before + 1e-12).all()):
            break
    duals = _Duals(value - b[partner], b[:n_columns])
    return torch.where(has, partner, -1), torch.where(has, value, 0.0), duals
