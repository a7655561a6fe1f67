"""The positional subspace of a residual stream: principal components that encode position, and what writes there.

Callers leave out position 0, which attends to nothing else and lies far from all others. For each principal component v
of the stream, the share of its variance that lies between positions is

    R^2(v) = 1 - (SS_within / (n - P)) / (SS_total / (n - 1)),

with position as a factor of P levels, adjusted so that it is 0 on average where activations do not depend on position
(a linear R^2 would miss periodic dependence); `linear` is the squared linear correlation r^2. The positional subspace
is spanned by the leading eigenvectors of the covariance M of the mean activations by position, corrected for the
sampling noise of those means,

    M - (P - 1) / n W,    W the covariance within positions,

as many as hold a share `kept` of the variance and have an eigenvalue above the largest one of permuted positions. The
share of a component's output in the subspace is tr(B C B^T) / tr(C), with C the covariance of the output and B the
orthonormal basis.

Controls: for R^2, positions permuted over activations. For the shares, random subspaces of the same rank (r / d on
average) and, since streams are far from isotropic, subspaces spanned by samples of N(0, covariance of the stream): a
component that writes where the stream is large anyway has a share as large as that. Intervals of values are over parts
of the data, those of controls over their draws.
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
    """A principal component of the stream and its dependence on position."""

    variance: float
    """Its share of the stream's variance."""
    r2: Interval
    """Adjusted R^2 with position as a factor."""
    linear: Interval
    """Squared linear correlation with position."""
    permuted: Interval
    """`r2` with permuted positions."""


class WriteShare(NamedTuple):
    """The share of a component's output that lies in a subspace, with controls."""

    name: str
    """The name of the component."""
    share: Interval
    """The share of the output's variance in the subspace."""
    random: Interval
    """The share in random subspaces of the same rank."""
    matched: Interval
    """The share in subspaces spanned by samples of the stream's covariance."""

    @property
    def is_above(self) -> bool:
        """Whether the share exceeds both controls, intervals included."""
        return self.share.low > max(self.random.high, self.matched.high)


@dataclass(frozen=True)
class Subspace:
    """The positional subspace of a residual stream."""

    basis: Float[Tensor, "rank d"]
    """Orthonormal rows."""
    between: Interval
    """The share of the stream's variance that lies between positions, with its interval over parts."""

    @property
    def rank(self) -> int:
        """The dimension of the subspace."""
        return len(self.basis)


def components(stream: Moments, permuted: Moments, most: int = 20) -> list[Component]:
    """The `most` leading principal components of the stream; `permuted` holds the moments of the same activations at
    permuted positions."""
    values, directions = directions_of(stream.covariance())
    directions = directions[:most]
    factor, linear = (_by_part(stream, directions, measure) for measure in (_factor, _linear))
    null = _by_part(permuted, directions, _factor)
    return [
        Component(float(values[q] / values.sum()), *(of_parts(r2[:, q].tolist()) for r2 in (factor, linear, null)))
        for q in range(len(directions))
    ]


Measure = Callable[[Moments, Tensor, int], Tensor]
"""A statistic of each direction ``[n, d]`` on one part of the data."""


def _by_part(moments: Moments, directions: Tensor, measure: Measure) -> Float[Tensor, "parts n"]:
    return torch.stack([measure(moments, directions, part) for part in range(moments.n_parts)])


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
    """The positional subspace from moments by position; `permuted` holds the moments of the same activations at
    permuted positions. Its rank is 0 if activations do not depend on position, unless a `rank` is given."""
    values, directions = directions_of(_between(stream))
    if rank is None:
        share = values.cumsum(0) / values.sum()
        rank = min(int((share < kept).sum()) + 1, int((values > directions_of(_between(permuted))[0][0]).sum()))
    every = torch.eye(len(directions), dtype=torch.float64)
    between = [_weighted(stream, every, part) for part in range(stream.n_parts)]
    return Subspace(directions[:rank].contiguous(), of_parts(between))


def _between(moments: Moments) -> Float[Tensor, "d d"]:
    """The covariance of the means by position, corrected for the sampling noise of the means."""
    means, count = moments.positional(), moments.count.sum(0)
    n, p = float(count.sum()), float((count > 0).sum())
    between = means.T @ means
    return between - (p - 1) / (n - p) * (moments.covariance() - between)


def _weighted(stream: Moments, every: Tensor, part: int) -> float:
    """The adjusted share of the total variance that lies between positions."""
    total = _along(stream.covariance(part), every)
    return float((_factor(stream, every, part) * total)[total > 0].sum() / total.sum())


def write_shares(
    positional: Subspace,
    stream: Moments,
    outputs: Mapping[str, list[Float[Tensor, "d d"]]],
    draws: int = 200,
    seed: int = 0,
) -> list[WriteShare]:
    """The share of each component's output in the subspace, from the output's covariance on each part of the data."""
    rank, d = positional.basis.shape
    draw = generator("writes", seed)
    random = [_orthonormal(torch.randn(rank, d, generator=draw, dtype=torch.float64)) for _ in range(draws)]
    matched = [_orthonormal(rows) for rows in matched_gaussian(stream.covariance(), rank, seed, draws)]
    shares: list[WriteShare] = []
    for name, covariances in outputs.items():
        whole = torch.stack(covariances).mean(0)
        shares.append(
            WriteShare(
                name,
                of_parts([share_inside(c, positional.basis) for c in covariances]),
                of_draws([share_inside(whole, basis) for basis in random]),
                of_draws([share_inside(whole, basis) for basis in matched]),
            )
        )
    return shares


def share_inside(covariance: Float[Tensor, "d d"], basis: Float[Tensor, "rank d"]) -> float:
    """The share of the variance that lies in the subspace of an orthonormal basis; NaN without variance."""
    return float(((basis @ covariance) * basis).sum() / covariance.trace())


def _orthonormal(rows: Float[Tensor, "rank d"]) -> Float[Tensor, "rank d"]:
    return torch.linalg.qr(rows.T).Q.T.contiguous()
