"""Geometry against closed forms."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae.analysis.geometry.geometry import (
    Superposition,
    dimensionality,
    dimensions_per_feature,
    effective_neurons,
    features_per_neuron,
    gram,
    interference,
    plateau,
    rank,
    superposition,
)
from sae.toys.features.directions import CORNERS, rotation

EYAS = torch.tensor([[1.0, 0.0], [0.5**0.5, 0.5**0.5]])
TRIANGLE = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5**0.5, 0.5**0.5]])
ROTATED = rotation(4, torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "d"),
    [
        ("digon", 1 / 2),
        ("triangle", 2 / 3),
        ("square", 1 / 2),
        ("pentagon", 2 / 5),
        ("hexagon", 1 / 3),
        ("tetrahedron", 3 / 4),
        ("octahedron", 1 / 2),
        ("square_antiprism", 3 / 8),
    ],
)
@pytest.mark.parametrize("length", [0.3, 1.0, 2.0])
def test_dimensionality_of_polytopes(name: str, d: float, length: float):
    corners = length * CORNERS[name]
    torch.testing.assert_close(dimensionality(corners), torch.full((len(corners),), d))
    assert float(dimensionality(corners).sum()) == pytest.approx(corners.shape[1])


def test_dimensions_per_feature_counts_features_of_norm_one():
    assert dimensions_per_feature(CORNERS["pentagon"]) == pytest.approx(2 / 5)
    assert dimensions_per_feature(torch.cat([torch.eye(5), torch.zeros(15, 5)])) == 1


def test_an_antiprism_of_another_height_is_no_plateau():
    squashed = CORNERS["square_antiprism"].clone()
    squashed[:, :2] *= (0.75 / (2 / 3)) ** 0.5
    squashed[:, 2] = squashed[:, 2].sign() / 2
    assert float(dimensionality(squashed).mean()) == pytest.approx(0.3636, abs=1e-4)


def test_zeros_are_no_features():
    rows = torch.cat([torch.eye(2), torch.zeros(2, 2)])
    assert dimensionality(rows).tolist() == [1, 1, 0, 0] and interference(rows).tolist() == [0, 0, 0, 0]
    assert effective_neurons(rows).isnan().tolist() == [False, False, True, True]
    assert rank(torch.zeros(3, 2)) == 0 and features_per_neuron(rows).tolist() == [1, 1]


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 12), d=st.integers(1, 6), seed=st.integers(0, 1000))
def test_dimensions_sum_to_the_rank_at_most_and_rotation_changes_nothing(n: int, d: int, seed: int):
    g = torch.Generator().manual_seed(seed)
    rows = torch.randn(n, d, generator=g)
    assert float(dimensionality(rows).sum()) <= min(n, d) + 1e-3
    turned = rows @ rotation(d, g)
    torch.testing.assert_close(dimensionality(turned), dimensionality(rows), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(interference(turned), interference(rows), atol=1e-3, rtol=1e-3)
    if superposition(rows).crowded:
        assert superposition(rows).polysemantic


def test_interference_and_gram_by_hand():
    rows = torch.tensor([[2.0, 0.0], [1.0, 1.0]])
    assert gram(rows).tolist() == [[4, 2], [2, 2]]
    torch.testing.assert_close(interference(rows), torch.tensor([1.0, 2.0]))


@pytest.mark.parametrize(
    ("d", "name"),
    [
        (1.0, "dedicated"),
        (0.745, "tetrahedron"),
        (0.66, "triangle"),
        (0.51, "digon"),
        (0.405, "pentagon"),
        (0.376, "square antiprism"),
        (0.01, "none"),
        (0.58, None),
        (0.2, None),
    ],
)
def test_plateaus(d: float, name: str | None):
    assert plateau(d) == name


@pytest.mark.parametrize(
    ("rows", "polysemantic", "spread", "crowded"),
    [
        (torch.eye(3), False, False, False),
        (torch.tensor([[1.0], [-1.0]]), True, False, True),  # cat and car on one signed neuron
        (EYAS, True, True, False),
        (ROTATED, True, True, False),
        (TRIANGLE, True, True, True),
        (CORNERS["pentagon"], True, True, True),
    ],
)
def test_the_senses_of_superposition(rows: torch.Tensor, polysemantic: bool, spread: bool, crowded: bool):
    assert superposition(rows) == Superposition(polysemantic, spread, crowded)


def test_rotated_features_are_apart_and_the_oblique_ones_are_not():
    torch.testing.assert_close(interference(ROTATED), torch.zeros(4), atol=1e-6, rtol=0)
    torch.testing.assert_close(interference(EYAS), torch.tensor([0.5, 0.5]))


def test_effective_neurons_by_hand():
    found = effective_neurons(torch.tensor([[3.0, 0, 0], [1, 1, 0], [1, 1, 1], [2, 1, 0]]))
    torch.testing.assert_close(found, torch.tensor([1.0, 2.0, 3.0, 25 / 17]))


def test_only_represented_rows_count():
    rows = torch.cat([torch.eye(2), 0.01 * torch.ones(1, 2)])
    assert superposition(rows).crowded
    assert not superposition(rows, rows.norm(dim=1) > 0.5).crowded
