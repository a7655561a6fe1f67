"""Signed codes under a penalty on how many are active, and small dictionaries fitted to it.

    min over z, W, b of  mean over rows  1/2 ||x - b - z W||^2 + sum_j penalty(z_j),    ||W_j|| = 1

    penalty(z) = l |z| - z^2 / (2 g)   for |z| <= g l,     g l^2 / 2   beyond,       l the threshold, g the concavity

This is the minimax concave penalty (Zhang 2010, 'Nearly unbiased variable selection under minimax concave penalty'): a
code above ``g l`` costs the same whatever its size and is not shrunk, so that, unlike with L1, true directions are a
fixed point however many of their features are active together. With ``g = inf`` it is L1.

Codes are computed by coordinate descent, whose step is firm thresholding (Gao and Bruce 1997), started at the codes of
L1; directions by block coordinate descent on the sphere (Mairal et al. 2010, algorithm 2); b as the mean of what is
left. Loops are compiled with numba where it is installed (:mod:`sae.numerics.concave_loops`); elsewhere they run over
all rows at once. Both do the same operations.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sae.numerics.matching import unit
from sae.numerics.seeds import HAS_NUMBA

CONVERGED = 1e-3
"""Coordinate descent of a row ends when no code changes by more than this share of the threshold."""
UNUSED = 1e-3
"""Directions whose codes have less than this share of the mean energy are replaced."""


class ConcavePenalty(NamedTuple):
    """The penalty of a code."""

    threshold: float
    """l: codes that gain less than this stay zero."""
    concavity: float = math.inf
    """g: codes above ``g l`` all cost the same; above 1, infinite for L1."""

    @property
    def convex(self) -> ConcavePenalty:
        """L1 with the same threshold."""
        return self._replace(concavity=math.inf)

    def of(self, z: Float[Tensor, "rows n"]) -> Float[Tensor, " rows"]:
        """The penalty of each row."""
        size, flat = z.abs(), self.concavity * self.threshold
        if math.isinf(flat):
            return self.threshold * size.sum(1)
        small = self.threshold * size - size.square() / (2 * self.concavity)
        return torch.where(size <= flat, small, flat * self.threshold / 2).sum(1)

    def thresholded(self, u: Tensor) -> Tensor:
        """``argmin over z of  (u - z)^2 / 2 + penalty(z)``."""
        size = u.abs()
        z = (size - self.threshold).clamp_min(0) * (1 / (1 - 1 / self.concavity))
        return torch.where(size > self.concavity * self.threshold, size, z) * u.sign()


class Overcomplete(NamedTuple):
    """A dictionary of unit rows, which may be fewer or more than the dimensions."""

    W: Float[Tensor, "n d"]
    """The directions."""
    b: Float[Tensor, " d"]
    """The offset."""

    def codes(self, x: Float[Tensor, "rows d"], penalty: ConcavePenalty, sweeps: int = 60) -> Float[Tensor, "rows n"]:
        """The codes of rows; each depends on its own row alone."""
        z = x.new_zeros(len(x), len(self.W))
        if not math.isinf(penalty.concavity):
            descend_codes(x - self.b, self.W, z, penalty.convex, 10)
        descend_codes(x - self.b, self.W, z, penalty, sweeps)
        return z

    def cost(self, x: Float[Tensor, "rows d"], penalty: ConcavePenalty) -> Float[Tensor, " rows"]:
        """The objective of each row at its codes."""
        z = self.codes(x, penalty)
        return (x - self.b - z @ self.W).square().sum(1) / 2 + penalty.of(z)

    def left(self, x: Float[Tensor, "rows d"], penalty: ConcavePenalty) -> float:
        """The share of the variance of rows that the codes leave."""
        residual = x - self.b - self.codes(x, penalty) @ self.W
        return float(residual.square().sum() / (x - x.mean(0)).square().sum())


class Rounds(NamedTuple):
    """Rounds of codes and directions."""

    first: int
    """Rounds with L1 on a quarter of the rows."""
    convex: int
    """Rounds with L1 on all rows."""
    concave: int
    """Rounds with the penalty itself."""


def fit_directions(
    x: Float[Tensor, "rows d"], start: Overcomplete, penalty: ConcavePenalty, rounds: Rounds, replace: bool = True
) -> Overcomplete:
    """Alternates codes and directions from `start`. With `replace`, directions without use are moved to the rows that
    are worst reconstructed, every four rounds with L1 but the last three."""
    W, b = start.W.clone(), start.b.clone()
    z = x.new_zeros(len(x), len(W))
    few = min(len(x), max(len(x) // 4, 500))
    plan = [(few, True)] * rounds.first + [(len(x), True)] * rounds.convex + [(len(x), False)] * rounds.concave
    for t, (n, convex) in enumerate(plan):
        rows, codes = x[:n] - b, z[:n]
        descend_codes(rows, W, codes, penalty.convex if convex else penalty, 3)
        second, cross = codes.T @ codes, codes.T @ rows
        descend_directions(W, second, cross)
        residual = rows - codes @ W
        b += residual.mean(0)
        if replace and convex and t % 4 == 3 and t < rounds.first + rounds.convex - 3:
            energy = second.diagonal()
            unused = (energy <= UNUSED * energy.mean()).nonzero()[:, 0][: len(rows)]
            worst = residual[residual.square().sum(1).topk(len(unused)).indices]
            W[unused], z[:, unused] = unit(worst), 0
    return Overcomplete(W, b)


def descend_codes(
    x: Float[Tensor, "rows d"],
    W: Float[Tensor, "n d"],
    z: Float[Tensor, "rows n"],
    penalty: ConcavePenalty,
    sweeps: int,
) -> None:
    """At most `sweeps` sweeps of coordinate descent over the codes `z`, which are changed in place."""
    gram, along = W @ W.T, x @ W.T
    if HAS_NUMBA and x.device.type == "cpu" and x.dtype == torch.float32 and z.is_contiguous():
        from sae.numerics.concave_loops import descend_rows

        flat = penalty.concavity * penalty.threshold
        shrink = 1 / (1 - 1 / penalty.concavity)
        arrays = (t.numpy() for t in (along, gram, z))
        descend_rows(*arrays, penalty.threshold, min(flat, 1e30), shrink, sweeps, CONVERGED)
        return
    left = along - z @ gram
    going = torch.ones(len(x), dtype=torch.bool, device=x.device)
    for _ in range(sweeps):
        change = torch.zeros_like(along[:, 0])
        for j in range(len(W)):
            moved = torch.where(going, penalty.thresholded(left[:, j] + z[:, j]) - z[:, j], 0)
            z[:, j] += moved
            left -= moved[:, None] * gram[j]
            change = torch.maximum(change, moved.abs())
        going = change >= CONVERGED * penalty.threshold
        if not bool(going.any()):
            break


def descend_directions(W: Float[Tensor, "n d"], second: Float[Tensor, "n n"], cross: Float[Tensor, "n d"]) -> None:
    """Two passes over the rows of `W`, in place, from ``second = z^T z`` and ``cross = z^T x``; rows without a code
    stay."""
    if HAS_NUMBA and W.device.type == "cpu" and W.dtype == torch.float32:
        from sae.numerics.concave_loops import descend_sphere

        descend_sphere(W.numpy(), second.numpy(), cross.numpy(), 2)
        return
    for _ in range(2):
        for j in range(len(W)):
            moved = second[j, j] * W[j] + cross[j] - second[j] @ W
            if float(second[j, j]) > 0 and float(moved.norm()) > 1e-12:
                W[j] = moved / moved.norm()
