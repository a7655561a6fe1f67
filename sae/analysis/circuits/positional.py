"""Where a residual stream keeps the position: which principal components are of it, and which components write there.

Position 0 is left out, which attends to nothing else and is far from all others. For each principal component v of the
stream, the share of its variance that lies between positions,

    R^2(v) = 1 - (SS_within / (n - P)) / (SS_total / (n - 1)),

as of a factor of P positions, adjusted so that it is 0 on average where position says nothing (a linear R^2 would miss
what goes round); `linear` is the linear part of it, r^2. The positional subspace is spanned by the mean activations
by position: the leading eigenvectors of the covariance M of those means, less what they differ by as means of few rows,

    M - (P - 1) / n W,    W the covariance within positions,

as many as hold a share `kept` of it and have an eigenvalue above all that permuted positions give. A component writes
into it the share tr(B C B^T) / tr(C) of the variance of its output, C its covariance and B the orthonormal basis.

Controls: for R^2, positions permuted over rows. For the shares, random subspaces of the same rank (r / d on average),
and, since streams are far from round, those spanned by random rows ~ N(0, covariance of the stream): a component that
writes where the stream is large anyway has a share as large as that. Intervals of values are over parts of the rows,
those of controls over their draws.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sae.analysis.geometry.moments import Moments, directions_of, matched_gaussian
from sae.numerics.seeds import generator
from sae.numerics.statistics import Interval, of_draws, of_parts


class Component(NamedTuple):
    """A principal component: its share of the variance, and R^2 on position, as a factor, linear, and permuted."""

    variance: float
    r2: Interval
    linear: Interval
    permuted: Interval


class Writes(NamedTuple):
    """What share of the variance of a component's output is in a subspace, and of controls of the subspace."""

    name: str
    share: Interval
    random: Interval
    matched: Interval

    @property
    def is_above(self) -> bool:
        """Whether it writes there beyond both controls."""
        return self.share.low > max(self.random.high, self.matched.high)


@dataclass(frozen=True)
class Subspace:
    """The positional subspace: an orthonormal basis, and the share of the stream's variance that is between positions,
    with its interval over parts."""

    basis: Float[Tensor, "rank d"]
    between: Interval

    @property
    def rank(self) -> int:
        return len(self.basis)


def components(stream: Moments, permuted: Moments, most: int = 20) -> list[Component]:
    """The leading principal components of the stream; `permuted` has taken in the same rows at permuted positions."""
    values, directions = directions_of(stream.covariance())
    directions = directions[:most]
    factor, linear = (_by_part(stream, directions, how) for how in (_factor, _linear))
    null = _by_part(permuted, directions, _factor)
    return [
        Component(
            float(values[q] / values.sum()), *(of_parts(found[:, q].tolist()) for found in (factor, linear, null))
        )
        for q in range(len(directions))
    ]


Measure = Callable[[Moments, Tensor, int], Tensor]


def _by_part(moments: Moments, directions: Tensor, how: Measure) -> Float[Tensor, "parts n"]:
    return torch.stack([how(moments, directions, part) for part in range(moments.n_parts)])


def _factor(moments: Moments, directions: Float[Tensor, "n d"], part: int) -> Float[Tensor, " n"]:
    count = moments.count[part]
    total = _along(moments.covariance(part), directions)
    between = (moments.positional(part) @ directions.T).square().sum(0)
    n, p = float(count.sum()), float((count > 0).sum())
    return 1 - ((total - between) / (n - p)) / (total / (n - 1))


def _linear(moments: Moments, directions: Float[Tensor, "n d"], part: int) -> Float[Tensor, " n"]:
    share = moments.count[part] / moments.count[part].sum()
    at = torch.arange(len(share), dtype=torch.float64)
    at = at - (share * at).sum()
    together = (moments.positional(part) @ directions.T * (share.sqrt() * at)[:, None]).sum(0)
    return together.square() / ((share * at.square()).sum() * _along(moments.covariance(part), directions))


def _along(covariance: Float[Tensor, "d d"], directions: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    return ((directions @ covariance) * directions).sum(1)


def subspace(stream: Moments, permuted: Moments, kept: float = 0.9, rank: int | None = None) -> Subspace:
    """The subspace of position of a stream that has taken in rows with their positions; `permuted` has taken in the
    same at permuted ones. It has no direction where position says nothing, unless a `rank` is given."""
    values, directions = directions_of(_between(stream))
    if rank is None:
        share = values.cumsum(0) / values.sum()
        rank = min(int((share < kept).sum()) + 1, int((values > directions_of(_between(permuted))[0][0]).sum()))
    every = torch.eye(len(directions), dtype=torch.float64)
    between = [_weighted(stream, every, part) for part in range(stream.n_parts)]
    return Subspace(directions[:rank].contiguous(), of_parts(between))


def _between(moments: Moments) -> Float[Tensor, "d d"]:
    """The covariance of the means by position, less what is due to the number of rows."""
    means, count = moments.positional(), moments.count.sum(0)
    n, p = float(count.sum()), float((count > 0).sum())
    found = means.T @ means
    return found - (p - 1) / (n - p) * (moments.covariance() - found)


def _weighted(stream: Moments, every: Tensor, part: int) -> float:
    """The adjusted share of all variance that is between positions."""
    total = _along(stream.covariance(part), every)
    return float((_factor(stream, every, part) * total)[total > 0].sum() / total.sum())


def writes(
    found: Subspace, stream: Moments, outputs: Mapping[str, list[Float[Tensor, "d d"]]], draws: int = 200, seed: int = 0
) -> list[Writes]:
    """The share of each component's output in the subspace, from its covariance on each part of the rows."""
    rank, d = found.basis.shape
    draw = generator("writes", seed)
    random = [_orthonormal(torch.randn(rank, d, generator=draw, dtype=torch.float64)) for _ in range(draws)]
    alike = [_orthonormal(rows) for rows in matched_gaussian(stream.covariance(), rank, seed, draws)]
    told: list[Writes] = []
    for name, covariances in outputs.items():
        whole = torch.stack(covariances).mean(0)
        told.append(
            Writes(
                name,
                of_parts([inside(c, found.basis) for c in covariances]),
                of_draws([inside(whole, basis) for basis in random]),
                of_draws([inside(whole, basis) for basis in alike]),
            )
        )
    return told


def inside(covariance: Float[Tensor, "d d"], basis: Float[Tensor, "rank d"]) -> float:
    """The share of the variance that is in the subspace of an orthonormal basis; NaN of none."""
    return float(((basis @ covariance) * basis).sum() / covariance.trace())


def _orthonormal(rows: Float[Tensor, "rank d"]) -> Float[Tensor, "rank d"]:
    return torch.linalg.qr(rows.T).Q.T.contiguous()
