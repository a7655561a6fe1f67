from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae.dictionaries.relu import Relu
from sae.metric import Case, Evidence
from sae.metrics.reconstruction import Config
from sae.source import Batch, Truth


def scores(d: Relu, x: torch.Tensor, codes: torch.Tensor | None = None) -> dict[str, float]:
    batch = Batch(x, codes)
    return dict(Config().score(Case(d, Evidence(batch, batch))).scalars)


def identity(d_in: int, scale: float = 1.0) -> Relu:
    """Reconstructs non-negative activations up to a factor."""
    return Relu(torch.eye(d_in), scale * torch.eye(d_in), torch.zeros(d_in), torch.zeros(d_in))


def constant(value: torch.Tensor) -> Relu:
    """Never fires."""
    n = len(value)
    return Relu(torch.zeros(n, 3), torch.eye(3, n), torch.zeros(3), value)


def test_by_hand():
    x = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 0.0], [1.0, 4.0]])
    s = scores(identity(2, scale=0.5), x, codes=torch.tensor([[1.0], [0.0], [3.0], [0.0]]))
    assert s["l0"] == 4 / 4 and s["l1_norm"] == 8 / 4 and s["true_l0"] == 0.5
    assert s["dead"] == 0 and s["dense"] == 1  # both fire on more than a tenth
    # |x - x/2|^2 sums to 22/4; the mean is (1, 1), so the variance sums to 1+1 + 1+1 + 1+1 + 0+9 - 0
    variance = (0 + 1) + (1 + 1) + (1 + 1) + (0 + 9)
    assert s["fvu"] == pytest.approx(22 / 4 / variance)
    assert s["explained_variance"] == pytest.approx(1 - 22 / 4 / variance)
    assert s["shrinkage"] == pytest.approx(0.5)


def test_perfect():
    s = scores(identity(4), torch.rand(50, 4))
    assert s["fvu"] == 0 and s["explained_variance"] == 1 and s["shrinkage"] == 1


def test_a_constant_at_the_mean_explains_nothing():
    """Uncentred and per-dimension variants score .44 and more here."""
    x = torch.randn(500, 6, dtype=torch.float64) + torch.tensor([5.0, 0, 0, 0, -3, 0])
    s = scores(constant(x.mean(0)).to(dtype=torch.float64), x)
    assert s["explained_variance"] == pytest.approx(0, abs=1e-12) and s["dead"] == 1 and s["l0"] == 0


def test_a_constant_bias_is_not_forgiven():
    """With Var(x - x_hat) as the numerator the score would be 1."""
    x = torch.rand(200, 3)
    d = identity(3)
    shifted = Relu(d.W_enc, d.W_dec, d.b_enc + 1, d.b_dec)  # x_hat = x + 1
    assert scores(shifted, x)["explained_variance"] < -5


def test_an_orthogonal_projection_is_unbiased():
    """The ratio of norms would be below 1."""
    d = Relu(torch.eye(4, 2), torch.eye(2, 4), torch.zeros(2), torch.zeros(4))
    s = scores(d, torch.rand(100, 4))
    assert s["shrinkage"] == pytest.approx(1) and s["fvu"] > 0.3


def test_a_large_offset_costs_no_digits():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(9000, 5, generator=g) + 3000
    d = Relu.tied(torch.eye(5), torch.full((5,), 2999.5))
    x64, x_hat = x.double().numpy(), d.decode(d.encode(x)).double().numpy()
    expected = ((x64 - x_hat) ** 2).sum() / ((x64 - x64.mean(0)) ** 2).sum()
    assert scores(d, x)["fvu"] == pytest.approx(expected, rel=1e-9)


def test_a_transcoder_is_compared_with_its_targets():
    x, y = torch.rand(50, 3), torch.randn(50, 3)
    batch = Batch(x, targets=y)
    s = Config().score(Case(identity(3), Evidence(batch, batch))).scalars
    assert s["fvu"] == pytest.approx(float((x - y).square().sum() / (y - y.mean(0)).square().sum()), rel=1e-5)
    assert s["explained_variance"] == pytest.approx(1 - s["fvu"])
    assert s["shrinkage"] == pytest.approx(float(x.square().sum() / (x * y).sum()), rel=1e-4)
    assert s["l0"] == scores(identity(3), x)["l0"]  # the codes are those of the inputs
    batch = Batch(x, targets=x.flip(1))
    swapped = Relu(torch.eye(3), torch.eye(3).flip(1), torch.zeros(3), torch.zeros(3))
    assert Config().score(Case(swapped, Evidence(batch, batch))).scalars["fvu"] == 0


def test_undefined_is_nan():
    s = scores(constant(torch.zeros(3)), torch.ones(10, 3))
    assert math.isnan(s["shrinkage"]) and math.isnan(s["fvu"]) and math.isnan(s["explained_variance"])


def test_dead_and_dense():
    x = torch.zeros(100, 3)
    x[:10, 1] = 1  # exactly a tenth is not more than a tenth
    x[:11, 2] = 1
    batch = Batch(x)
    found = Config().score(Case(identity(3), Evidence(batch, batch)))
    assert found.scalars["dead"] == pytest.approx(1 / 3) and found.scalars["dense"] == pytest.approx(1 / 3)
    np.testing.assert_allclose(found.vectors["density"].numpy(), [0, 0.1, 0.11])


@settings(max_examples=20, deadline=None)
@given(scale=st.floats(1e-3, 1e3), shift=st.floats(-10, 10), seed=st.integers(0, 1000))
def test_units_and_origin_do_not_matter(scale: float, shift: float, seed: int):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(60, 4, generator=g, dtype=torch.float64)
    d = Relu.tied(torch.randn(5, 4, generator=g, dtype=torch.float64), torch.zeros(4, dtype=torch.float64))
    moved = Relu(d.W_enc, d.W_dec, scale * d.b_enc, scale * d.b_dec + shift)
    before, after = scores(d, x), scores(moved, scale * x + shift)
    assert after["fvu"] == pytest.approx(before["fvu"], rel=1e-9) and after["l0"] == before["l0"]


def test_two_on_a_line_disturb_each_other_only_together():
    """A digon, features at 1 and -1 in one dimension, encoded with a threshold of .1: together they nearly cancel, and
    the remainder is below the threshold."""
    draw = torch.Generator().manual_seed(0)
    codes = torch.rand(4000, 2, generator=draw) * (torch.rand(4000, 2, generator=draw) < 0.5)
    x = codes[:, :1] - codes[:, 1:]
    d = Relu(torch.tensor([[1.0, -1]]), torch.tensor([[1.0], [-1]]), torch.tensor([-0.1, -0.1]), torch.zeros(1))
    s = scores(d, x, codes)
    n_active = (codes > 0).sum(1)
    for k in (1, 2):
        rows = x[n_active == k].double()
        found = (rows.abs() - 0.1).clamp_min(0) * rows.sign()
        expected = float((rows - found).square().sum() / (rows - rows.mean()).square().sum())
        assert s[f"fvu_active_{k}"] == pytest.approx(expected, rel=1e-4)
    assert s["fvu_active_2"] > s["fvu_active_1"] and math.isnan(s["fvu_active_3"])
    assert not [name for name in scores(d, x) if "active" in name], "no such scores without true codes"


def test_too_few_samples_are_nan():
    x = torch.rand(300, 2)
    codes = torch.ones(300, 2)
    codes[:99, 0] = 0
    s = scores(identity(2, scale=0.5), x, codes)
    assert math.isnan(s["fvu_active_1"]) and not math.isnan(s["fvu_active_2"])
    codes[99, 0] = 0
    assert not math.isnan(scores(identity(2, scale=0.5), x, codes)["fvu_active_1"])


def test_the_true_l0_counts_what_the_activations_represent():
    codes = torch.tensor([[1.0, 1, 1], [0, 0, 2], [0, 1, 0], [0, 0, 0]])
    truth = Truth(torch.eye(3), torch.tensor([True, False, True]), torch.full((3,), 0.5))
    batch = Batch(codes, codes)
    case = Case(identity(3), Evidence(batch, batch, truth))
    assert Config().score(case).scalars["true_l0"] == 3 / 4


def test_neither_order_nor_scale_of_latents_matters_but_to_their_sum():
    g = torch.Generator().manual_seed(0)
    x, d = torch.randn(300, 5, generator=g), Relu.tied(torch.randn(9, 5, generator=g))
    order, factor = torch.randperm(9, generator=g), 2.0 ** torch.arange(9)
    moved = Relu((d.W_enc * factor)[:, order], (d.W_dec / factor[:, None])[order], (d.b_enc * factor)[order], d.b_dec)
    before, after = scores(d, x), scores(moved, x)
    assert after.pop("l1_norm") > before.pop("l1_norm") and after == pytest.approx(before, rel=1e-5)


def test_codes_at_random_are_worse_than_none():
    """A random reconstruction with the variance of the data and no correlation: fvu is 1 + 1."""
    g = torch.Generator().manual_seed(1)
    x, noise = torch.randn(2, 20_000, 4, generator=g)
    both = torch.cat([torch.eye(4), -torch.eye(4)])
    d = Relu(torch.zeros(4, 8), both, torch.zeros(8), torch.zeros(4))
    case = Case(d, Evidence(Batch(x), Batch(x)))
    case.__dict__["test_codes"] = torch.cat([noise, -noise], dim=1).relu()  # where cached_property keeps them
    assert Config().score(case).scalars["fvu"] == pytest.approx(2, rel=0.03)
