"""Directions by their Gram matrices."""

from __future__ import annotations

import math

import pytest
import torch

from sae.numerics.seeds import generator
from sae.toys.features.directions import (
    CORNERS,
    Directions,
    Explicit,
    Orthonormal,
    Polytope,
    RandomDirections,
    Repelled,
)


def rows(directions: Directions, n: int, d_in: int, seed: int = 0) -> torch.Tensor:
    directions.check(n, d_in)
    return directions.rows(n, d_in, generator("test", seed))


def gram(f: torch.Tensor) -> torch.Tensor:
    return f @ f.T


@pytest.mark.parametrize(
    ("directions", "n", "d_in"),
    [(RandomDirections(), 40, 8), (Orthonormal(), 8, 8), (Repelled(), 40, 8), (Polytope(name="pentagon"), 20, 8)],
)
def test_unit_rows_that_depend_on_the_seed(directions: Directions, n: int, d_in: int):
    f = rows(directions, n, d_in)
    assert f.shape == (n, d_in) and f.is_contiguous()
    torch.testing.assert_close(f.norm(dim=1), torch.ones(n))
    assert torch.equal(f, rows(directions, n, d_in)) and not torch.allclose(f, rows(directions, n, d_in, seed=1))


def test_orthonormal_rows():
    torch.testing.assert_close(gram(rows(Orthonormal(), 5, 12)), torch.eye(5), atol=1e-6, rtol=0)
    f = rows(Orthonormal(), 6, 6)
    torch.testing.assert_close(gram(f), torch.eye(6), atol=1e-6, rtol=0)
    assert float(f.abs().max()) < 0.99  # rotated away from the axes


def test_random_directions_are_as_coherent_as_they_should_be():
    f = rows(RandomDirections(), 300, 200)
    off = gram(f)[~torch.eye(300, dtype=torch.bool)]
    assert abs(float(off.square().mean()) * 200 - 1) < 0.05


def test_repelled_rows_overlap_less_and_the_steps_are_adams():
    f, start = rows(Repelled(steps=100, lr=3e-3), 64, 16), rows(RandomDirections(), 64, 16)

    def overlap(rows: torch.Tensor) -> float:
        return float((gram(rows) - torch.eye(64)).square().sum())

    floor = 64**2 / 16 - 64  # Welch's bound
    assert floor <= overlap(f) < floor + 0.5 * (overlap(start) - floor)
    x = start.clone().requires_grad_()
    adam = torch.optim.Adam([x], lr=3e-3)
    for _ in range(100):
        square = x.square().sum(1)
        loss = gram(x).square().sum() - square.square().sum() + 64 * (square - 1).square().sum()
        adam.zero_grad()
        loss.backward()
        adam.step()
    x = x.detach()
    torch.testing.assert_close(f, x / x.norm(dim=1, keepdim=True), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("name", "n", "dimensions", "cosines"),
    [
        ("digon", 2, 1, {-1.0}),
        ("triangle", 3, 2, {-0.5}),
        ("square", 4, 2, {0.0, -1.0}),
        ("pentagon", 5, 2, {math.cos(2 * math.pi / 5), math.cos(4 * math.pi / 5)}),
        ("hexagon", 6, 2, {0.5, -0.5, -1.0}),
        ("tetrahedron", 4, 3, {-1 / 3}),
        ("octahedron", 6, 3, {0.0, -1.0}),
    ],
)
def test_polytopes_have_their_angles(name: str, n: int, dimensions: int, cosines: set[float]):
    corners = CORNERS[name]
    assert corners.shape == (n, dimensions)
    off = gram(corners)[~torch.eye(n, dtype=torch.bool)]
    assert {round(c, 4) + 0.0 for c in off.tolist()} == {round(c, 4) + 0.0 for c in cosines}


@pytest.mark.parametrize("name", sorted(CORNERS))
def test_polytopes_are_tight_frames(name: str):
    corners = CORNERS[name]
    n, d = corners.shape
    torch.testing.assert_close(corners.T @ corners, n / d * torch.eye(d), atol=1e-5, rtol=0)
    torch.testing.assert_close(corners.sum(0), torch.zeros(d), atol=1e-5, rtol=0)


def test_copies_of_a_polytope_share_no_dimension():
    g = gram(rows(Polytope(name="triangle"), 6, 7))
    torch.testing.assert_close(g[:3, 3:], torch.zeros(3, 3), atol=1e-6, rtol=0)
    torch.testing.assert_close(g[3:, 3:], gram(CORNERS["triangle"]), atol=1e-6, rtol=0)
    flat = rows(Polytope(name="triangle", rotate=False), 3, 4)
    assert torch.equal(flat[:, :2], CORNERS["triangle"]) and not flat[:, 2:].any()


def test_explicit_rows_are_normalised_and_rotated_if_set():
    explicit = Explicit(vectors=((2, 0), (1, 1), (0, 0)))
    f = rows(explicit, 3, 3)
    torch.testing.assert_close(f, torch.tensor([[1, 0, 0], [0.5**0.5, 0.5**0.5, 0], [0, 0, 0]]))
    turned = rows(Explicit(vectors=explicit.vectors, rotate=True), 3, 3)
    torch.testing.assert_close(gram(turned), gram(f), atol=1e-6, rtol=0)
    assert not torch.allclose(turned, f)


@pytest.mark.parametrize(
    ("directions", "n", "d_in", "message"),
    [
        (Orthonormal(), 5, 4, "directions: 5 orthonormal features do not fit into d_in = 4"),
        (Polytope(name="pentagon"), 6, 4, "n_features = 6: a pentagon has 5 corners; give a multiple of 5"),
        (Polytope(name="pentagon"), 15, 4, "d_in = 4: 3 copies of a pentagon need 6 dimensions"),
        (Explicit(vectors=((1.0,),)), 2, 4, "directions.vectors: 1 vectors; give n_features = 2"),
        (Explicit(vectors=((1.0, 0.0, 0.0),)), 1, 2, "directions.vectors: 3 numbers each; give at most d_in = 2"),
    ],
)
def test_too_many_features_or_dimensions_are_errors(directions: Directions, n: int, d_in: int, message: str):
    with pytest.raises(ValueError, match=message):
        directions.check(n, d_in)


def test_vectors_of_different_lengths_are_an_error():
    with pytest.raises(ValueError, match="vectors: different lengths; give every vector the same number of entries"):
        Explicit(vectors=((1.0,), (1.0, 0.0)))
