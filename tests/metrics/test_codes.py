"""Scores of the codes: identity, chance, invariance, closed forms, and a case by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from sae.dictionaries.relu import Relu
from sae.dictionary import Dictionary
from sae.encoders.fista import Fista
from sae.metric import Case, Evidence, Scores
from sae.metrics.codes import Config, matched_correlations
from sae.numerics.active_codes import SplitCodes
from sae.scoring import score
from sae.source import Batch, Truth
from sae.toys.base import random_directions


def truth_of(directions: Tensor, codes: Tensor) -> Truth:
    return Truth(directions, torch.ones(len(directions), dtype=torch.bool), (codes > 0).float().mean(0))


def scored(d: Dictionary, codes: Tensor, directions: Tensor, with_truth: bool = True) -> Scores:
    batch = Batch(codes @ directions, codes)
    truth = truth_of(directions, codes) if with_truth else None
    return Config().score(Case(d, Evidence(batch, batch, truth)))


def sparse(rows: int, n: int, p: float = 0.3, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return (0.2 + torch.rand(rows, n, generator=g)) * (torch.rand(rows, n, generator=g) < p)


def correlations(codes: Tensor, z: Tensor) -> Tensor:
    return matched_correlations(codes, SplitCodes.of_matrix(z, 256)).value


def test_the_truth_against_itself_is_perfect():
    s = scored(Relu.tied(torch.eye(5)), sparse(400, 5), torch.eye(5)).scalars
    assert s == pytest.approx({"code_mcc": 1, "code_mcc_all": 1, "coefficient_slope": 1, "coefficient_r2": 1}, abs=1e-5)


def test_random_codes_are_at_the_chance_level_of_their_number_of_rows():
    """One feature, n independent latents: the best of n correlations, each of size |N(0, 1)| / sqrt(rows)."""
    g = torch.Generator().manual_seed(0)
    rows, n = 900, 40
    best = [
        float(correlations(torch.randn(rows, 1, generator=g), torch.randn(rows, n, generator=g))) for _ in range(200)
    ]
    normal = np.abs(np.random.default_rng(0).standard_normal((20_000, n))).max(1).mean()
    assert np.mean(best) == pytest.approx(normal / math.sqrt(rows), rel=0.04)


def test_random_directions_are_far_below_the_truth():
    codes, directions = sparse(3000, 32, 0.06), random_directions(32, 16, torch.Generator().manual_seed(0))
    s = scored(Relu.tied(random_directions(32, 16, torch.Generator().manual_seed(1))), codes, directions).scalars
    assert 0.2 < s["code_mcc"] < 0.5 and s["coefficient_r2"] < s["code_mcc"] ** 2 + 0.05


def test_neither_order_nor_scale_of_latents_matters():
    directions = random_directions(9, 6, torch.Generator().manual_seed(0))
    codes, b = sparse(500, 9), torch.full((9,), -0.1)
    d = replace(Relu.tied(directions), b_enc=b)
    order, scale = torch.randperm(9, generator=torch.Generator().manual_seed(1)), torch.linspace(0.2, 5, 9)
    other = Relu((d.W_enc * scale)[:, order], (d.W_dec / scale[:, None])[order], (b * scale)[order], d.b_dec)
    before, after = (scored(x, codes, directions).scalars for x in (d, other))
    assert after == pytest.approx(before, abs=1e-5)


def test_by_hand():
    """Two features along the axes. Latent 0 returns half of feature 0, latent 1 is constant."""
    codes = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0], [0.0, 1.0]])
    W_enc = torch.tensor([[0.5, 0.0], [0.0, 0.0]])
    d = Relu(W_enc, torch.eye(2), torch.tensor([0.0, 1.0]), torch.zeros(2))
    found = scored(d, codes, torch.eye(2))
    # Pearson of (1, 3, 0, 0) with its half is 1, of anything with a constant 0: of the two pairings the first is best.
    assert found.scalars["code_mcc"] == pytest.approx(0.5, abs=1e-6)
    assert found.vectors["correlation"].tolist() == pytest.approx([1, 0], abs=1e-6)
    # Latent 1 is 1 where feature 1 is 2 and 1: (2 + 1) / (4 + 1).
    assert found.vectors["slope"].tolist() == pytest.approx([0.5, 0.6], abs=1e-6)
    assert found.scalars["coefficient_slope"] == pytest.approx(0.55, abs=1e-6)
    assert found.vectors["r2"].tolist() == pytest.approx([1, 0], abs=1e-6)


def test_a_latent_that_points_away_is_matched_by_its_codes_and_not_by_its_direction():
    """code_mcc pairs by codes: swapped decoder rows change only the scores that pair by direction."""
    codes, eye = sparse(400, 2), torch.eye(2)
    s = scored(Relu(eye, eye.flip(0), torch.zeros(2), torch.zeros(2)), codes, eye).scalars
    assert s["code_mcc"] == pytest.approx(1, abs=1e-5) and s["coefficient_r2"] < 0.05


def test_a_lasso_takes_its_penalty_from_every_coefficient_and_the_slope_says_how_much():
    """Orthonormal directions, c ~ U(0.2, 1.2): u = c - l1, so the slope is 1 - l1 E c / E c^2, and r2 is near 1."""
    codes, l1 = sparse(40_000, 3), 0.15
    found = scored(Fista.over(torch.eye(3), torch.zeros(3), l1, n_iterations=50), codes, torch.eye(3))
    expected = 1 - l1 * 0.7 / (0.7**2 + 1 / 12)
    assert found.scalars["coefficient_slope"] == pytest.approx(expected, abs=0.003)
    assert found.scalars["code_mcc"] > 0.98 and 0.98 < found.scalars["coefficient_r2"] < 0.9999


def test_a_feature_without_a_partner_counts_zero_and_has_no_slope():
    codes = sparse(500, 4)
    one = Relu(torch.eye(4)[:, :1], torch.eye(4)[:1], torch.zeros(1), torch.zeros(4))
    found = scored(one, codes, torch.eye(4))
    assert found.scalars["code_mcc"] == pytest.approx(0.25, abs=1e-5) == found.scalars["code_mcc_all"]
    assert found.scalars["coefficient_r2"] == pytest.approx(0.25, abs=1e-5)
    assert found.scalars["coefficient_slope"] == pytest.approx(1, abs=1e-5)
    assert found.vectors["slope"].isnan().tolist() == [False, True, True, True]


def test_superfluous_latents_lower_only_the_score_over_the_larger_side():
    codes = sparse(500, 4)
    d = Relu(torch.eye(4).repeat(1, 2), torch.eye(4).repeat(2, 1), torch.tensor([0.0] * 4 + [-9.0] * 4), torch.zeros(4))
    s = scored(d, codes, torch.eye(4)).scalars
    assert s["code_mcc"] == pytest.approx(1, abs=1e-5) and s["code_mcc_all"] == pytest.approx(0.5, abs=1e-5)


def test_where_both_sides_are_as_many_it_is_the_published_formula():
    """|Pearson| of numpy, assigned by scipy, and the mean over all columns."""
    from scipy.optimize import linear_sum_assignment

    codes, z = sparse(300, 12), torch.rand(300, 12, generator=torch.Generator().manual_seed(5)) + sparse(300, 12)
    size = np.abs(np.corrcoef(codes.double().T.numpy(), z.double().T.numpy())[:12, 12:])
    expected = size[linear_sum_assignment(-size)].mean()
    assert float(correlations(codes, z).mean()) == pytest.approx(expected, abs=1e-6)


def test_a_partner_that_never_fires_has_slope_zero():
    codes = sparse(300, 2)
    d = Relu(torch.eye(2), torch.eye(2), torch.tensor([0.0, -9.0]), torch.zeros(2))
    found = scored(d, codes, torch.eye(2))
    assert found.vectors["slope"].tolist() == pytest.approx([1, 0], abs=1e-5)
    assert found.vectors["r2"].tolist() == pytest.approx([1, 0], abs=1e-5)


def test_features_that_never_vary_are_left_out():
    codes = sparse(300, 3)
    codes[:, 1] = 0
    found = scored(Relu.tied(torch.eye(3)), codes, torch.eye(3))
    assert found.scalars["code_mcc"] == pytest.approx(1, abs=1e-5)
    assert found.scalars["coefficient_r2"] == pytest.approx(1, abs=1e-5)
    assert all(bool(found.vectors[name][1].isnan()) for name in ("correlation", "slope", "r2"))


def test_codes_alone_are_enough_for_their_own_correlation():
    codes = sparse(300, 3)
    assert set(scored(Relu.tied(torch.eye(3)), codes, torch.eye(3), with_truth=False).scalars) == {
        "code_mcc",
        "code_mcc_all",
    }
    s = score(Relu.tied(torch.eye(3)), codes, codes=codes)
    assert s["code_mcc"] == pytest.approx(1, abs=1e-5) and "coefficient_slope" not in s
