from __future__ import annotations

import math

import pytest
import torch

from sae.numerics.seeds import generator
from sae.toys.features.values import (
    ConstantValue,
    DiscreteValues,
    FoldedNormal,
    LogNormal,
    RectifiedNormal,
    Uniform,
    Values,
)

N = 50_000


def drawn(values: Values) -> tuple[torch.Tensor, float]:
    tensors = values.tensors(1, 0)
    v = values.draw(tensors, torch.zeros(N, dtype=torch.int64), generator("test"))
    return v.double(), float(tensors["mean"])


@pytest.mark.parametrize(
    ("values", "mean", "second"),
    [
        (Uniform(), 1 / 2, 1 / 3),
        (Uniform(low=0.5), 3 / 4, 7 / 12),
        (ConstantValue(), 1, 1),
        (ConstantValue(value=2.5), 2.5, 6.25),
        (DiscreteValues(values=(1, 2, 3)), 2, 14 / 3),
        (DiscreteValues(values=(1, 2, 3, 4, 5)), 3, 11),
        (DiscreteValues(values=(1, 3), weights=(3, 1)), 1.5, 3),
        (LogNormal(), math.exp(1 / 32), math.exp(1 / 8)),
        (LogNormal(mu=-1, sigma=0.5), math.exp(-7 / 8), math.exp(-2 + 0.5)),
        (FoldedNormal(), (2 / math.pi) ** 0.5, 1),
        (FoldedNormal(mu=1, sigma=0.15), 1, 1.0225),
        (RectifiedNormal(mu=1, sigma=0.15), 1, 1.0225),
    ],
)
def test_moments(values: Values, mean: float, second: float):
    v, stated = drawn(values)
    assert abs(float(v.mean()) - mean) < 0.02 * mean and abs(float(v.square().mean()) - second) < 0.03 * second
    assert stated == pytest.approx(mean, rel=1e-3) and float(v.min()) >= 0


def test_supports():
    assert 0.5 <= float(drawn(Uniform(low=0.5))[0].min()) < 0.501 and float(drawn(Uniform(low=0.5))[0].max()) <= 1
    assert set(drawn(DiscreteValues(values=(1, 2, 3)))[0].tolist()) == {1.0, 2.0, 3.0}
    assert float(drawn(LogNormal())[0].min()) > 0


def test_the_share_that_a_rectifier_sets_to_zero():
    values = RectifiedNormal(mu=0.5, sigma=1.0)
    v, mean = drawn(values)
    positive = float(values.tensors(1, 0)["positive"])
    assert positive == pytest.approx(0.6915, abs=1e-4) and abs(float((v > 0).double().mean()) - positive) < 0.01
    assert abs(float(v[v > 0].mean()) - mean) < 0.02


def test_every_feature_has_its_own_distribution():
    values = RectifiedNormal(mu={"kind": "linear", "first": 5, "last": 4}, sigma=[0.1, 0.5, 1.0])
    feature = torch.arange(3).repeat_interleave(N)
    v = values.draw(values.tensors(3, 0), feature, generator("test")).view(3, N)
    torch.testing.assert_close(v.mean(1), torch.tensor([5, 4.5, 4]), atol=0.03, rtol=0)
    torch.testing.assert_close(v.std(1), torch.tensor([0.1, 0.5, 1.0]), atol=0.01, rtol=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Uniform(low=-1), "low = -1: codes are not negative; split a signed feature into two"),
        (lambda: Uniform(low=1, high=1), "high = 1: not above low = 1"),
        (lambda: DiscreteValues(values=(-1, 1)), r"values = \[-1.0, 1.0\]: codes are not negative"),
        (lambda: DiscreteValues(values=(0, 1)), r"values = \[0.0, 1.0\]: 0 means inactive; leave it out"),
        (lambda: DiscreteValues(values=(1, 2), weights=(1,)), r"weights = \[1.0\]: give one weight above 0 for each"),
        (lambda: ConstantValue(value=0).tensors(2, 0), "values.value: 0 is not above 0"),
        (lambda: RectifiedNormal(mu=[1, -2], sigma=1).tensors(2, 0), "values.mu: -2 is not above 0"),
        (lambda: RectifiedNormal(sigma=[1]).tensors(2, 0), "values.sigma: a list of 1 where 2 numbers"),
    ],
)
def test_impossible_settings_are_errors(make: object, message: str):
    with pytest.raises(ValueError, match=message):
        make()
