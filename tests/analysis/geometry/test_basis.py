from __future__ import annotations

import math

import pytest
import torch

from sae.analysis.geometry.basis import basis_alignment, kurtosis, max_share
from sae.analysis.geometry.geometry import expected_nearest, nearest_cosine
from sae.registry import UserError
from sae.toys.base import random_directions
from sae.toys.features.directions import rotation


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_kurtosis_of_known_distributions():
    n = 200_000
    uniform, sign = torch.rand(n, generator=draw()), torch.randint(2, (n,), generator=draw(1)).float()
    laplace = torch.empty(n).exponential_(generator=draw(2)) * (2 * torch.randint(2, (n,), generator=draw(3)) - 1)
    gaussian = 5 + 3 * torch.randn(n, generator=draw(4))
    sparse = (torch.rand(n, generator=draw(5)) < 0.01).float()
    found = kurtosis(torch.stack([uniform, sign, laplace, gaussian, sparse, torch.ones(n)], dim=1))
    expected = torch.tensor([9 / 5, 1, 6, 3, 1 / (0.01 * 0.99) - 3])  # a coin: 1 / (p q) - 3
    torch.testing.assert_close(found[:5], expected, rtol=0.06, atol=0)
    assert math.isnan(found[5])


def test_correlated_gaussians_have_no_special_axes():
    x = torch.randn(50_000, 6, generator=draw()) @ torch.randn(6, 6, generator=draw(1))
    torch.testing.assert_close(kurtosis(x), torch.full((6,), 3.0), atol=0.15, rtol=0)


def test_max_share_by_hand():
    found = max_share(torch.tensor([[0.0, -2, 0], [1, 1, 0], [3, 0, 4], [0, 0, 0]]))
    torch.testing.assert_close(found[:3], torch.tensor([1, 0.5, 0.64]))
    assert math.isnan(found[3])


def test_axes_are_told_from_any_other_basis():
    axes = torch.eye(20).repeat(2, 1) + 0.05 * torch.randn(40, 20, generator=draw())
    on, off = basis_alignment(axes), basis_alignment(axes @ rotation(20, draw(9)))
    assert on.is_aligned and on.value > 0.9 and on.rotated < 0.4
    assert not off.is_aligned and off.rotated == pytest.approx(on.rotated, abs=0.05)
    assert on.low < on.rotated < on.high
    with pytest.raises(UserError, match="no other basis"):
        basis_alignment(torch.ones(3, 1))


def test_a_residual_with_a_basis_of_its_own_by_kurtosis():
    sparse = torch.rand(20_000, 8, generator=draw()) * (torch.rand(20_000, 8, generator=draw(1)) < 0.05)
    assert basis_alignment(sparse, kurtosis, rotations=20).is_aligned
    assert not basis_alignment(sparse @ rotation(8, draw(2)), kurtosis, rotations=20).is_aligned


def test_random_unit_vectors_are_as_nearly_orthogonal_as_expected():
    """Nearest neighbours of many random vectors have cosines just below sqrt(2 ln n / d); the nearest of all pairs has
    about sqrt 2 times that."""
    for n, d in ((1024, 96), (2000, 400)):
        nearest = nearest_cosine(random_directions(n, d, draw()))
        assert 0.85 * expected_nearest(n, d) < float(nearest.mean()) < expected_nearest(n, d)
        assert expected_nearest(n, d) < float(nearest.max()) < 1.5 * expected_nearest(n, d)


def test_nearest_cosine_by_hand():
    rows = torch.tensor([[2.0, 0], [0, 1], [-1, 1], [0, 0]])
    torch.testing.assert_close(nearest_cosine(rows), torch.tensor([0.5**0.5, 0.5**0.5, 0.5**0.5, 0]))
