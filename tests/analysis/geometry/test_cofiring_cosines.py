"""Latents that fire together are nearer to right angles if that was planted, and like all others if not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sae.analysis.geometry.cofiring_cosines import FiringCounts, cofiring_cosines
from sae.numerics.seeds import generator

N, D, ROWS = 40, 24, 6000
EVEN = torch.eye(D, dtype=torch.float64)


def codes() -> Tensor:
    """Latents in four groups of ten; in each sample half of the latents of one group fire."""
    draw = generator("codes")
    crowd = torch.randint(4, (ROWS,), generator=draw)
    on = (torch.arange(N) // 10 == crowd[:, None]) & (torch.rand(ROWS, N, generator=draw) < 0.5)
    return on * torch.rand(ROWS, N, generator=draw).add(0.1)


def firings(size: int = 1000) -> FiringCounts:
    counts = FiringCounts(N)
    for piece in codes().split(size):
        counts.add(piece)
    return counts


def orthogonal_within() -> Tensor:
    """All groups nearly on the same ten axes: orthogonal within a group, parallel across groups."""
    rows = torch.eye(10, D).repeat(4, 1)
    return rows + 0.3 * torch.randn(N, D, generator=generator("rows")) / D**0.5


def test_firings_are_counted_in_batches_of_any_size():
    z = (codes() > 0).float()
    for size in (7000, 333):
        assert torch.equal(firings(size).both, z.T @ z)


def test_crowds_at_right_angles_within_are_below_both_controls():
    found = cofiring_cosines(orthogonal_within(), firings(), EVEN)
    assert found.n_together == 4 * 45 and found.n_apart == N * (N - 1) // 2 - 4 * 45
    assert found.difference.high < min(found.permuted.low, found.matched.low, 0)
    assert found.difference.value == pytest.approx(found.together.value - found.apart.value, abs=1e-6)
    assert found.difference.low < found.difference.value < found.difference.high


def test_crowds_of_one_direction_each_are_above_them():
    rows = torch.eye(4, D).repeat_interleave(10, 0) + 0.1 * torch.randn(N, D, generator=generator("r")) / D**0.5
    found = cofiring_cosines(rows, firings(), EVEN)
    assert found.difference.low > max(found.permuted.high, found.matched.high, 0.9)


def test_random_directions_are_inside_both():
    found = cofiring_cosines(torch.randn(N, D, generator=generator("random")), firings(), EVEN)
    assert found.permuted.low < found.difference.value < found.permuted.high
    assert found.matched.low < found.difference.value < found.matched.high
    assert abs(found.permuted.value) < 0.01 and abs(found.matched.value) < 0.02


def test_without_such_pairs_it_is_not_known():
    alone = FiringCounts(3)
    alone.add(torch.eye(3))
    found = cofiring_cosines(torch.eye(3), alone, torch.eye(3, dtype=torch.float64))
    assert found.n_together == found.n_apart == 0 and found.difference.value != found.difference.value
