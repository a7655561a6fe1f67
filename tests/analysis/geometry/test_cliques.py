"""Figures among directions: planted ones are found once each, and random rows have as many as the chance count."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sae.analysis.geometry.cliques import antipodal, counts, find_figures
from sae.numerics.seeds import generator
from sae.toys.features.directions import rotation

D = 40


def polygon(corners: int) -> Tensor:
    angle = 2 * math.pi * torch.arange(corners) / corners
    return torch.stack([angle.cos(), angle.sin()], 1)


def tetrahedron() -> Tensor:
    return torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / math.sqrt(3)


def planted() -> tuple[Tensor, Tensor]:
    """Two pairs, a triangle, a tetrahedron and a pentagon at right angles to each other, rotated and with a little
    noise, and ten directions that are in none; in a random order, which is returned too."""
    blocks = [*[torch.tensor([[1.0], [-1.0]])] * 2, polygon(3), tetrahedron(), polygon(5), torch.eye(10)]
    rows = torch.block_diag(*blocks)
    rows = torch.nn.functional.pad(rows, (0, D - rows.shape[1]))
    draw = generator("planted")
    noisy = rows @ rotation(D, draw) + 0.01 * torch.randn(rows.shape, generator=draw)
    order = torch.randperm(len(rows), generator=draw)
    return 3 * noisy[order], order


def where(order: Tensor, *originals: int) -> tuple[int, ...]:
    return tuple(sorted(int((order == i).nonzero()) for i in originals))


def test_every_planted_figure_is_found_once():
    rows, order = planted()
    assert sorted(map(tuple, antipodal(rows).tolist())) == sorted([where(order, 0, 1), where(order, 2, 3)])
    for name, originals in (("triangle", range(4, 7)), ("tetrahedron", range(7, 11)), ("pentagon", range(11, 16))):
        assert find_figures(name, rows).tolist() == [list(where(order, *originals))]


def test_counts_stand_beside_those_of_random_rows_with_the_same_covariance():
    rows, _ = planted()
    found = {c.figure: c for c in counts(rows, torch.eye(D, dtype=torch.float64))}
    assert [c.n for c in found.values()] == [2, 1, 1, 1]
    assert all(c.n > c.n_chance.high for c in found.values())
    assert found["pentagon"].rows == pytest.approx(5 / 26)
    flat = torch.zeros(D, D, dtype=torch.float64)
    flat[:2, :2] = torch.eye(2)
    crowded = {c.figure: c for c in counts(rows, flat)}
    assert crowded["pentagon"].n_chance.value > 1 and crowded["digon"].n_chance.value > 2  # in a plane they are many


def test_a_set_that_is_too_far_from_its_figure_is_none():
    bent = polygon(5) @ torch.diag(torch.tensor([1.0, 0.7]))
    assert len(find_figures("pentagon", bent)) == 0 and len(find_figures("pentagon", bent, tolerance=0.4)) == 1


def test_random_rows_have_no_more_figures_than_chance():
    rows = torch.randn(300, 12, generator=generator("rows"))
    for c in counts(rows, torch.eye(12, dtype=torch.float64), draws=20):
        assert c.n_chance.low * 0.8 - 3 <= c.n <= c.n_chance.high * 1.2 + 3


def test_neither_lengths_nor_order_nor_rows_of_zeros_matter():
    rows, _ = planted()
    other = torch.cat([rows * torch.rand(len(rows), 1, generator=generator("s")).add(0.1), torch.zeros(3, D)]).flip(0)
    a, b = (counts(x, torch.eye(D, dtype=torch.float64), draws=2) for x in (rows, other))
    assert [(c.n, c.rows) for c in a] == [(c.n, c.rows) for c in b]
