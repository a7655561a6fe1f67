"""Damped least squares over a sparse matrix, by conjugate gradients (Hestenes and Stiefel 1952)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

_ENOUGH = 1e-8
"""The iterations stop when the squared residual has fallen to this share."""


class SparseRows(NamedTuple):
    """A sparse matrix ``[rows, columns]`` and its transpose."""

    matrix: Tensor
    """The matrix."""
    transpose: Tensor
    """Its transpose."""
    square: Float[Tensor, " columns"]
    """The sums of squares of its columns."""

    @classmethod
    def of(
        cls, row: Int[Tensor, " n"], column: Int[Tensor, " n"], value: Float[Tensor, " n"], rows: int, columns: int
    ) -> SparseRows:
        """From its entries, in any order, each at most once."""
        square = value.new_zeros(columns).index_add_(0, column, value.square())
        return cls(_sorted(row, column, value, rows, columns), _sorted(column, row, value, columns, rows), square)


def _sorted(row: Tensor, column: Tensor, value: Tensor, rows: int, columns: int) -> Tensor:
    order = (row * columns + column).argsort()
    places = torch.stack([row[order], column[order]])
    shape = (rows, columns)
    return torch.sparse_coo_tensor(places, value[order], shape, is_coalesced=True, check_invariants=False)


def damped_least_squares(
    z: SparseRows, r: Float[Tensor, "rows d"], damping: Float[Tensor, " columns"], iterations: int
) -> Float[Tensor, "columns d"]:
    """``argmin ||r - z w||^2 + sum_j damping_j ||w_j||^2`` from zero, after at most so many iterations; every one costs
    two products with `z`. A column without entries stays zero."""
    diagonal = (z.square + damping)[:, None]
    scale = torch.where(z.square[:, None] > 0, 1 / diagonal.clamp_min(1e-12), torch.zeros_like(diagonal))
    damping = damping[:, None]
    left = torch.sparse.mm(z.transpose, r)
    towards = scale * left
    w, direction = torch.zeros_like(left), towards.clone()
    first = size = _dot(left, towards)
    for _ in range(iterations):
        if size <= _ENOUGH * first:
            break
        product = torch.sparse.mm(z.transpose, torch.sparse.mm(z.matrix, direction)).addcmul_(damping, direction)
        step = size / _dot(direction, product)
        w.add_(direction, alpha=step)
        left.add_(product, alpha=-step)
        torch.mul(scale, left, out=towards)
        before, size = size, _dot(left, towards)
        direction.mul_(size / before).add_(towards)
    return w


def _dot(a: Tensor, b: Tensor) -> float:
    return float(torch.dot(a.flatten(), b.flatten()))
