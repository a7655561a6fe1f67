"""Streaming first and second moments of activations, from which covariances and means by position are computed.

Samples are divided into parts (by document, for example), so that every measure has an interval over parts that share
no data. Memory is ``n_parts (d^2 + n_positions d)`` numbers, however many samples there are. Sums are in float64 and
about a shift (the mean of the first batch), since residual streams have coordinates whose mean is many times their
standard deviation.
"""

from __future__ import annotations

from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae.numerics.seeds import generator


class Moments:
    """Counts and sums of activations by part and position, and second moments by part."""

    def __init__(self, d: int, n_positions: int = 1, n_parts: int = 5) -> None:
        self.n_parts, self.n_positions = n_parts, n_positions
        self.count = torch.zeros(n_parts, n_positions, dtype=torch.float64)
        self.sum = torch.zeros(n_parts, n_positions, d, dtype=torch.float64)
        self.second = torch.zeros(n_parts, d, d, dtype=torch.float64)
        self._shift: Tensor | None = None

    def add(
        self, x: Float[Tensor, "rows d"], part: Int[Tensor, " rows"], position: Int[Tensor, " rows"] | None = None
    ) -> None:
        """Adds a batch; `part` and `position` (0 by default) are numbered from 0."""
        if self._shift is None:
            self._shift = x.mean(0).double().cpu()
        x, part = x.double().cpu() - self._shift, part.cpu().long()
        place = part * self.n_positions + (0 if position is None else position.cpu().long())
        self.count.view(-1).index_add_(0, place, torch.ones(len(x), dtype=torch.float64))
        self.sum.view(-1, x.shape[1]).index_add_(0, place, x)
        for p in part.unique().tolist():
            x_part = x[part == p]
            self.second[p] += x_part.T @ x_part

    @cached_property
    def _all(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.count.sum(0), self.sum.sum(0), self.second.sum(0)

    def covariance(self, part: int | None = None) -> Float[Tensor, "d d"]:
        """The covariance of one part or of all samples; call it after the last `add`."""
        count, total, second = self._all if part is None else (self.count[part], self.sum[part], self.second[part])
        n, mean = count.sum(), total.sum(0) / count.sum()
        return second / n - torch.outer(mean, mean)

    def positional(self, part: int | None = None) -> Float[Tensor, "n_positions d"]:
        """Means by position minus the overall mean, each times the square root of the position's share of the samples:
        the squares add up to the variance between positions. Zero at positions without samples."""
        count, total, _ = self._all if part is None else (self.count[part], self.sum[part], self.second[part])
        n, mean = count.sum(), total.sum(0) / count.sum()
        return (total / count.clamp(min=1)[:, None] - mean) * (count / n).sqrt()[:, None]


def directions_of(covariance: Float[Tensor, "d d"]) -> tuple[Float[Tensor, " d"], Float[Tensor, "d d"]]:
    """Eigenvalues in descending order, and the principal directions as rows."""
    values, vectors = torch.linalg.eigh(covariance)
    return values.flip(0).clamp(min=0), vectors.flip(1).T.contiguous()


def matched_gaussian(
    covariance: Float[Tensor, "d d"], n: int, seed: int, draws: int = 20
) -> list[Float[Tensor, "n d"]]:
    """`draws` matrices of random rows ``~ N(0, C)``: as anisotropic as activations of that covariance, without their
    other structure."""
    values, vectors = directions_of(covariance)
    root = values.sqrt()[:, None] * vectors
    draw = generator("matched", seed)
    return [torch.randn(n, len(root), generator=draw, dtype=torch.float64) @ root for _ in range(draws)]
