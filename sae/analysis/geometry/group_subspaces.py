"""Whether directions that belong to different groups, such as latents of different genres of text, share a subspace.

A latent is specific to a group if at least `share` of its firing is in it, with groups of equal size:

    rate_gj = fired_gj / samples_g,    rate_gj / sum_h rate_hj >= share

The subspace of some directions u_j of unit norm, with weights w_j, is spanned by the `rank` leading eigenvectors B of

    M = sum_j w_j u_j u_j^T / sum_j w_j

and the overlap of two subspaces is the mean squared cosine of their principal angles,

    trace(P_a P_b) / min(r_a, r_b),    P = B B^T

which is 1 where one contains the other, 0 where they are orthogonal, and about ``rank / d`` for random ones (Björck and
Golub 1973, 'Numerical methods for computing angles between linear subspaces'). Since it grows with the number of
directions, all subspaces that are compared are of equally many: the directions of every group are divided into two
random halves, as large as those of the smallest group.

    within = mean_g overlap(first half of g, second half of g)
    across = mean_{g != h} overlap(first half of g, second half of h)

``p`` is from permuting the groups of the directions. `across` below `within`: groups have subspaces of their own. As
high as `within`: they share one. Above it: the directions of a group avoid each other, and those of another group,
which are never active at the same time, use the same dimensions again. Two measures of pairs of directions need no
rank: the mean squared cosine, and the mean of the largest abs. cosine of a direction with those of the other half.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae.numerics.matching import unit
from sae.numerics.seeds import generator
from sae.numerics.statistics import Interval, of_draws
from sae.registry import UserError

LEAST_DIRECTIONS = 4
"""The fewest directions of a group, two in each half."""


def specific_group(
    fired: Float[Tensor, "n_groups n_latents"],
    samples: Float[Tensor, " n_groups"],
    share: float = 0.9,
    least: int = 50,
) -> Int[Tensor, " n_latents"]:
    """The group that each latent is specific to, -1 for none.

    `fired` counts the samples of each group in which a latent fires, of `samples` in all; latents that fire in fewer
    than `least` are specific to none. Raises `UserError` for a group without samples, and for a share of a half or
    less, which several groups could have.
    """
    if not 0.5 < share <= 1:
        raise UserError(f"share = {share:g}: give more than .5 and at most 1")
    if fired.dim() != 2 or len(samples) != len(fired) or not bool((samples > 0).all()):
        raise UserError(
            f"samples: {len(samples)} for {len(fired)} groups, the fewest {float(samples.min()):g}; give every group's "
            "number of samples, at least 1"
        )
    rates = fired.double() / samples.double()[:, None]
    highest, group = rates.max(0)
    specific = (highest >= share * rates.sum(0)) & (fired.sum(0) >= least) & (highest > 0)
    return group.masked_fill(~specific, -1)


def specific_of_documents(
    fired: Float[Tensor, "documents n_latents"],
    samples: Float[Tensor, " documents"] | Int[Tensor, " documents"],
    group: Int[Tensor, " documents"],
    share: float = 0.9,
    least: int = 50,
) -> Int[Tensor, " n_latents"]:
    """As :func:`specific_group`, from the counts of documents that belong to groups; those with -1 are left out."""
    some = group >= 0
    n_groups, of = int(group.max()) + 1, group[some]

    def summed(counts: Tensor) -> Tensor:
        return counts.new_zeros(n_groups, *counts.shape[1:], dtype=torch.float64).index_add_(
            0, of, counts[some].double()
        )

    return specific_group(summed(fired), summed(samples), share, least)


def leading_basis(
    directions: Float[Tensor, "n d"], rank: int | None = None, weights: Float[Tensor, " n"] | None = None
) -> Float[Tensor, "d rank"]:
    """An orthonormal basis of the `rank` dimensions that hold most of the directions, taken with unit norm; as many as
    there are directions or dimensions where None. Weights are equal where None."""
    u = unit(directions.double())
    if weights is not None:
        u = u * weights.double().clamp_min(0).sqrt()[..., None]
    most = min(u.shape[-2:])
    rank = most if rank is None else rank
    if not 1 <= rank <= most:
        raise UserError(f"rank = {rank}: give 1 to {most}, the rank of {u.shape[-2]} directions of {u.shape[-1]} dims")
    return torch.linalg.svd(u, full_matrices=False).Vh[..., :rank, :].mT


def subspace_overlap(a: Float[Tensor, "*#sets d r_a"], b: Float[Tensor, "*#sets d r_b"]) -> Float[Tensor, "..."]:
    """The mean squared cosine of the principal angles between the spans of orthonormal columns."""
    return (a.mT @ b).square().sum((-2, -1)) / min(a.shape[-1], b.shape[-1])


def variance_inside(basis: Float[Tensor, "d rank"], covariance: Float[Tensor, "d d"]) -> float:
    """The share of the variance of samples that is in a subspace, ``trace(P C) / trace(C)``."""
    return float((basis.T @ covariance.to(basis) @ basis).trace() / covariance.trace())


class GroupContrast(NamedTuple):
    """One measure within and across groups, next to the same with permuted groups."""

    within: float
    """Between the two halves of a group, the mean over groups and halvings."""
    across: float
    """Between halves of two groups, the mean over pairs of groups and halvings."""
    permuted: Interval
    """`across` with permuted groups: the mean and 95% of the permutations."""
    difference: float
    """``across - within``."""
    difference_permuted: Interval
    """The same with permuted groups."""
    p: float
    """Two-sided p-value of the difference."""

    def __str__(self) -> str:
        return (
            f"across {self.across:.3f} (permuted {self.permuted}), within {self.within:.3f}, difference "
            f"{self.difference:+.3f} (permuted {self.difference_permuted.low:+.3f} to "
            f"{self.difference_permuted.high:+.3f}, p = {self.p:.2g})"
        )


@dataclass(frozen=True, eq=False)
class GroupSubspaces:
    """Whether the directions of groups share a subspace; ``print`` shows the differences."""

    counts: tuple[int, ...]
    """Directions of each group."""
    half: int
    """Directions of each half."""
    rank: int
    """Dimensions of each subspace."""
    subspaces: GroupContrast
    """The overlap of subspaces."""
    cosines: GroupContrast
    """The mean squared cosine of pairs of directions."""
    nearest: GroupContrast
    """The mean over directions of the largest abs. cosine with those of the other half."""
    pairs: Float[Tensor, "n_groups n_groups"]
    """The overlap of the subspaces of each pair of groups; on the diagonal that of two halves of a group."""

    def __str__(self) -> str:
        return (
            f"{' + '.join(map(str, self.counts))} directions, halves of {self.half}\n"
            f"overlap of subspaces of {self.rank} dimensions: {self.subspaces}\n"
            f"mean squared cosine of pairs: {self.cosines}\n"
            f"abs. cosine of the nearest: {self.nearest}"
        )


@torch.no_grad()
def group_subspaces(
    directions: Float[Tensor, "n d"],
    group: Int[Tensor, " n"],
    rank: int = 8,
    *,
    weights: Float[Tensor, " n"] | None = None,
    halvings: int = 10,
    permutations: int = 199,
    seed: int = 0,
) -> GroupSubspaces:
    """Compares the subspaces of groups with each other, and with two halves of one group.

    `group` numbers the group of each direction from 0; directions with -1 are left out. `rank` is lowered to the size
    of a half. `weights` are of the directions, such as their rates; equal where None.

    Raises `UserError` for fewer than two groups, and for groups of fewer than four directions.
    """
    kept = group >= 0
    u, group = unit(directions[kept].double()), group[kept]
    root = torch.ones(len(u), dtype=torch.float64) if weights is None else weights[kept].double().clamp_min(0).sqrt()
    counts = torch.bincount(group, minlength=1)
    if len(counts) < 2 or int(counts.min()) < LEAST_DIRECTIONS:
        raise UserError(
            f"group: {counts.tolist()} directions of each group; give two groups or more, of at least "
            f"{LEAST_DIRECTIONS} each, for example with a lower share"
        )
    half = int(counts.min()) // 2
    rank = min(rank, half, u.shape[1])
    draw = generator("group subspaces", seed)
    order = group.argsort(stable=True)
    rows = torch.cat([u, root[:, None]], 1)[order]
    starts = counts.cumsum(0) - counts

    def matrices(permuted: bool) -> Float[Tensor, "3 n_groups n_groups"]:
        """The measures between first halves (rows) and second halves (columns), with or without permuted groups."""
        total = torch.zeros(3, len(counts), len(counts), dtype=torch.float64)
        of = rows[torch.randperm(len(rows), generator=draw)] if permuted else rows
        for _ in range(halvings):
            sets = [
                of[start + torch.randperm(n, generator=draw)[: 2 * half]]
                for start, n in zip(starts.tolist(), counts.tolist(), strict=True)
            ]
            both = torch.stack(sets).unflatten(1, (2, half))  # [n_groups, halves, half, d + 1]
            plain, weighted = both[..., :-1], both[..., :-1] * both[..., -1:]
            second = weighted.mT @ weighted
            second = second / second.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
            basis = torch.linalg.eigh(second).eigenvectors[..., -rank:]
            total[0] += subspace_overlap(basis[:, None, 0], basis[None, :, 1])
            total[1] += (second[:, None, 0] * second[None, :, 1]).sum((-2, -1))
            total[2] += (plain[:, None, 0] @ plain[None, :, 1].mT).abs().amax(-1).mean(-1)
        return total / halvings

    measured = matrices(False)
    null = torch.stack([matrices(True) for _ in range(permutations)])
    found = [_contrast(of, of_null) for of, of_null in zip(measured, null.unbind(1), strict=True)]
    return GroupSubspaces(tuple(counts.tolist()), half, rank, *found, pairs=(measured[0] + measured[0].T) / 2)


def _within_across(matrix: Float[Tensor, "*draws n n"]) -> tuple[Tensor, Tensor]:
    n, own = matrix.shape[-1], matrix.diagonal(dim1=-2, dim2=-1).sum(-1)
    return own / n, (matrix.sum((-2, -1)) - own) / (n * (n - 1))


def _contrast(measured: Float[Tensor, "n n"], null: Float[Tensor, "draws n n"]) -> GroupContrast:
    within, across = _within_across(measured)
    of_null = _within_across(null)
    apart, difference = of_null[1] - of_null[0], float(across - within)
    # Permuted groups are exchangeable, so their differences lie around 0.
    as_large = int((apart.abs() >= abs(difference) * (1 - 1e-9)).sum())
    p = (1 + as_large) / (1 + len(apart)) if len(apart) else math.nan
    return GroupContrast(
        float(within), float(across), of_draws(of_null[1].tolist()), difference, of_draws(apart.tolist()), p
    )
