from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae.analysis.geometry.polytopes import described, groups, merge_parallel, n_represented
from sae.toys.features.directions import CORNERS, rotation

BIPYRAMID = torch.block_diag(CORNERS["triangle"], CORNERS["digon"])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("digon", "1 digon"),
        ("triangle", "1 triangle"),
        ("square", "2 digons"),
        ("pentagon", "1 pentagon"),
        ("hexagon", "1 hexagon"),
        ("tetrahedron", "1 tetrahedron"),
        ("octahedron", "3 digons"),
        ("square_antiprism", "1 square antiprism"),
    ],
)
@pytest.mark.parametrize("length", [0.6, 1.13])
def test_polytopes_are_named_and_products_split_into_factors(name: str, words: str, length: float):
    assert described(groups(length * CORNERS[name])) == words


def test_a_bipyramid_is_a_triangle_and_a_digon():
    found = groups(BIPYRAMID)
    assert described(found) == "1 triangle, 1 digon" and [g.features for g in found] == [(0, 1, 2), (3, 4)]
    assert [g.rank for g in found] == [2, 1]
    assert [g.dimensionality for g in found] == pytest.approx([2 / 3, 1 / 2])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
def test_neither_order_nor_basis_nor_ignored_features_matter(seed: int):
    draw = torch.Generator().manual_seed(seed)
    parts = [CORNERS["pentagon"], CORNERS["pentagon"], CORNERS["digon"], torch.ones(1, 1), torch.zeros(3, 1)]
    rows = torch.block_diag(*parts) + 0.01 * torch.randn(16, 7, generator=draw)
    order = torch.randperm(16, generator=draw)
    found = groups(rows[order] @ rotation(7, draw))
    assert described(found) == "2 pentagons, 1 digon, 1 dedicated"
    assert sum(len(g.features) for g in found) == 13 and all(order[list(g.features)].max() < 13 for g in found)


def test_what_is_no_polytope_is_called_a_group():
    rows = torch.tensor([[1.0, 0], [0.8, 0.6]])
    assert described(groups(rows)) == "1 group of 2" and groups(rows)[0].polytope is None
    assert described(groups(torch.zeros(3, 2))) == "nothing represented"
    assert described(groups(torch.block_diag(rows, rows))) == "2 groups of 2"


def test_merged_features_are_one_corner():
    """Two correlated features on each end of a digon."""
    rows = torch.tensor([[1.0, 0.0], [0.9, 0.05], [-1, 0], [-0.8, 0], [0, 1], [0.01, 0.01]])
    assert merge_parallel(rows) == [(0, 1), (2, 3), (4,)]
    found = groups(rows)
    assert described(found) == "1 digon, 1 dedicated" and found[0].features == (0, 1, 2, 3)


def test_classes_are_chains():
    angle = torch.tensor([0.0, 0.3, 0.6, 1.5])
    rows = torch.stack([angle.cos(), angle.sin()], dim=1)
    assert float(rows[0] @ rows[2]) < 0.95 and merge_parallel(rows) == [(0, 1, 2), (3,)]


def test_counts_depend_on_the_threshold():
    rows = torch.diag(torch.tensor([1.2, 0.6, 0.3, 0.05]))
    assert n_represented(rows) == {0.1: 3, 0.5: 2} and n_represented(rows, [0.0]) == {0.0: 4}
