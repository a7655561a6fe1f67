"""Agreement between dictionaries of two seeds."""

from __future__ import annotations

import math

import pytest
import torch

from sae.analysis.geometry import consistency
from sae.analysis.geometry.consistency import agreement, pairwise_mcc


def directions(n: int, d_in: int, seed: int) -> torch.Tensor:
    return torch.randn(n, d_in, generator=torch.Generator().manual_seed(seed))


def test_the_same_latents_in_another_order_and_scale_agree_entirely() -> None:
    a = directions(40, 16, 0)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    assert pairwise_mcc([a, 3.0 * a[order]]) == pytest.approx(1.0, abs=1e-6)


def test_a_latent_that_points_the_other_way_does_not_agree() -> None:
    a = torch.eye(3)
    assert agreement(a, torch.cat([a[:2], -a[2:]])) == pytest.approx(1 / 3)


def test_the_smaller_side_counts() -> None:
    assert agreement(torch.eye(4), torch.eye(4)[:2]) == pytest.approx(1.0)


def test_by_hand_over_three_pairs() -> None:
    # 60 degrees between neighbours: cosines .5, .5 and cos 120 = -.5
    angles = [torch.tensor([[math.cos(t), math.sin(t)]]) for t in (0, math.pi / 3, 2 * math.pi / 3)]
    assert pairwise_mcc(angles) == pytest.approx((0.5 + 0.5 - 0.5) / 3, abs=1e-6)


def test_random_directions_agree_no_more_than_chance() -> None:
    rows = [directions(512, 256, seed) for seed in range(2)]
    assert pairwise_mcc(rows) == pytest.approx(0.18, abs=0.005)  # as random directions and features of this shape


def test_one_dictionary_alone_and_too_many_latents_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert math.isnan(pairwise_mcc([torch.eye(3)]))
    monkeypatch.setattr(consistency, "_LARGEST", 2)
    assert math.isnan(pairwise_mcc([torch.eye(3), torch.eye(3)]))
