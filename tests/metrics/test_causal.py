"""Ablating the latent of a recovered feature: by hand, at chance, and with a right direction whose latent is silent."""

from __future__ import annotations

import math

import pytest
import torch

from sae.dictionaries.relu import Relu
from sae.metric import Case, Evidence, Scores
from sae.metrics.causal import Config
from sae.source import Batch, Truth


def score(z: torch.Tensor, codes: torch.Tensor, W_dec: torch.Tensor) -> Scores:
    """Features are the axes; the dictionary's codes are `z` whatever the activations are."""
    n, d_in = codes.shape[1], W_dec.shape[1]
    f = torch.eye(n, d_in)
    batch = Batch(codes @ f, codes)
    truth = Truth(f, torch.ones(n, dtype=torch.bool), torch.full((n,), 0.5))
    case = Case(Relu.tied(W_dec), Evidence(batch, batch, truth))
    case.__dict__.update(choose_codes=z, test_codes=z)  # where cached_property keeps them
    return Config().score(case)


def test_by_hand():
    """Feature 0, coefficients 1, 2, 1: removed are 1, 1 and 0, weighted by 1, 2, 1 of 6; a third of z^2 is stray.
    Feature 1: removing too much in one sample counts as all of it. Feature 2 has no latent near it."""
    codes = torch.tensor([[1.0, 0, 1], [2, 0, 0], [1, 3, 0], [0, 0, 0]])
    z = torch.tensor([[1.0, 0, 1], [1, 0, 0], [0, 9, 0], [1, 0, 1]])
    W_dec = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0.6, 0.8]])
    found = score(z, codes, W_dec)
    assert found.vectors["removed"].tolist()[:2] == pytest.approx([3 / 6, 1]) and found.vectors["removed"][2].isnan()
    assert found.vectors["stray"].tolist()[:2] == pytest.approx([1 / 3, 0])
    assert found.scalars == {
        "causal_share": pytest.approx(3 / 4),
        "inert": 0,
        "causal_stray": pytest.approx(1 / 6),
    }


def test_the_truth_removes_everything_and_nothing_else():
    codes = torch.rand(60, 4) * (torch.rand(60, 4) < 0.3)
    assert score(codes, codes, torch.eye(4)).scalars == {
        "causal_share": pytest.approx(1),
        "inert": 0,
        "causal_stray": 0,
    }


def test_shrunk_codes_remove_what_they_are():
    codes = torch.rand(60, 4) * (torch.rand(60, 4) < 0.3)
    assert score(0.8 * codes, codes, torch.eye(4)).scalars["causal_share"] == pytest.approx(0.8)


def test_a_direction_whose_latent_fires_independently_is_at_chance():
    """True directions with codes of other features: q removed, 1 - p stray, and all inert."""
    g = torch.Generator().manual_seed(0)
    codes = (torch.rand(20_000, 6, generator=g) < 0.3).float()
    z = 2.0 * (torch.rand(20_000, 6, generator=g) < 0.2)
    s = score(z, codes, torch.eye(6)).scalars
    assert s["causal_share"] == pytest.approx(0.2, abs=0.01) and s["causal_stray"] == pytest.approx(0.7, abs=0.01)
    assert s["inert"] == 1


def test_a_silent_latent_is_inert_however_right_its_direction():
    codes = torch.rand(60, 2) * (torch.rand(60, 2) < 0.5)
    z = codes * torch.tensor([1.0, 0])
    s = score(z, codes, torch.eye(2)).scalars
    assert s == {"causal_share": pytest.approx(0.5), "inert": 0.5, "causal_stray": 0.5}


def test_a_latent_that_always_fires_has_a_high_stray_share():
    g = torch.Generator().manual_seed(1)
    codes = (torch.rand(4000, 3, generator=g) < 0.1).float()
    s = score(torch.ones(4000, 3), codes, torch.eye(3)).scalars
    assert s["causal_share"] == 1 and s["causal_stray"] == pytest.approx(0.9, abs=0.02)


def test_two_latents_that_share_a_feature_are_both_inert():
    codes = torch.rand(60, 2) * (torch.rand(60, 2) < 0.5)
    s = score(0.49 * codes.repeat(1, 2), codes, torch.eye(2).repeat(2, 1)).scalars
    assert s["causal_share"] == pytest.approx(0.49) and s["inert"] == 1


def test_writing_against_the_feature_removes_nothing():
    codes = torch.rand(60, 1)
    assert score(-codes, codes, torch.eye(1, 2)).scalars["causal_share"] == 0


def test_the_order_and_the_scale_of_latents_do_not_matter():
    g = torch.Generator().manual_seed(2)
    codes = torch.rand(300, 5, generator=g) * (torch.rand(300, 5, generator=g) < 0.3)
    z = (codes + 0.2 * torch.randn(300, 5, generator=g)).relu()
    W_dec = torch.eye(5) + 0.1 * torch.randn(5, 5, generator=g)
    order, factor = torch.tensor([3, 1, 0, 4, 2]), torch.tensor([1.0, 8, 0.25, 3, 2])
    before, after = score(z, codes, W_dec), score((z * factor)[:, order], codes, (W_dec / factor[:, None])[order])
    assert after.scalars == pytest.approx(dict(before.scalars), rel=1e-5) and 0.3 < before.scalars["causal_share"] < 1


def test_what_is_not_recovered_or_never_active_is_nan():
    codes = torch.tensor([[1.0, 0], [1, 0]])
    away = torch.tensor([[1.0, 1], [-1, 1]])
    nothing = score(codes, codes, away).scalars
    assert all(math.isnan(value) for value in nothing.values())
    found = score(codes, codes, torch.eye(2))
    assert found.scalars["causal_share"] == 1 and found.vectors["removed"].isnan().tolist() == [False, True]
