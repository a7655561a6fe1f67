"""Codes and directions under the minimax concave penalty: closed forms, limits, a twin without numba."""

from __future__ import annotations

import math

import pytest
import torch

from sae.numerics import concave_coding
from sae.numerics.concave_coding import ConcavePenalty, Overcomplete, Rounds, descend_codes, fit_directions
from sae.numerics.matching import unit
from sae.numerics.seeds import generator
from sae.numerics.sparse_coding import lasso


def planted(n: int, d: int, rows: int, p: float = 0.15) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of sparse signed codes, and the unit directions."""
    draw = generator("planted", n, d)
    W = unit(torch.randn(n, d, generator=draw))
    z = torch.randn(rows, n, generator=draw) * (torch.rand(rows, n, generator=draw) < p)
    return z @ W, W


@pytest.mark.parametrize("penalty", [ConcavePenalty(0.3), ConcavePenalty(0.3, 3.0)])
def test_thresholding_is_the_minimum_over_a_grid(penalty: ConcavePenalty):
    z = torch.linspace(-3, 3, 60_001)
    for u in (-2.0, -0.7, -0.2, 0.1, 0.31, 0.5, 0.89, 0.92, 2.5):
        cost = (u - z).square() / 2 + penalty.of(z[:, None])
        assert float(penalty.thresholded(torch.tensor([u]))) == pytest.approx(float(z[cost.argmin()]), abs=1e-3)


def test_the_penalty_is_flat_beyond_its_end_and_l1_without_concavity():
    z = torch.tensor([[0.5], [0.9], [5.0]])
    assert ConcavePenalty(0.3, 3.0).of(z).tolist() == pytest.approx([0.15 - 0.25 / 6, 0.135, 0.135])
    assert ConcavePenalty(0.3, math.inf).of(z).tolist() == pytest.approx([0.15, 0.27, 1.5])


def test_codes_of_l1_are_those_of_the_lasso():
    x, W = planted(12, 8, 300)
    penalty = ConcavePenalty(0.1)
    both = torch.cat([W, -W])  # the lasso's codes are not negative
    halves = lasso(x @ both.T - 0.1, both, 1000)
    ours, theirs = Overcomplete(W, torch.zeros(8)).codes(x, penalty, sweeps=500), halves[:, :12] - halves[:, 12:]
    objective = [float(((x - z @ W).square().sum(1) / 2 + penalty.of(z)).mean()) for z in (ours, theirs)]
    assert objective[0] == pytest.approx(objective[1], rel=1e-4)


@pytest.mark.parametrize("penalty", [ConcavePenalty(0.2), ConcavePenalty(0.2, 3.0)])
def test_compiled_loops_do_what_plain_torch_does(penalty: ConcavePenalty, monkeypatch: pytest.MonkeyPatch):
    x, W = planted(9, 5, 200)
    start = Overcomplete(unit(W + 0.2), torch.full((5,), 0.1))
    compiled = fit_directions(x, start, penalty, Rounds(5, 2, 3))
    costs = compiled.cost(x, penalty)
    monkeypatch.setattr(concave_coding, "HAS_NUMBA", False)
    plain = fit_directions(x, start, penalty, Rounds(5, 2, 3))
    assert torch.allclose(compiled.W, plain.W, atol=1e-3) and torch.allclose(compiled.b, plain.b, atol=1e-3)
    assert torch.allclose(costs, compiled.cost(x, penalty), atol=1e-3)


def test_a_sweep_never_raises_the_objective():
    x, W = planted(12, 6, 200)
    penalty, z, before = ConcavePenalty(0.2, 2.0), torch.zeros(200, 12), math.inf
    for _ in range(10):
        descend_codes(x, W, z, penalty, 1)
        now = float(((x - z @ W).square().sum(1) / 2 + penalty.of(z)).sum())
        assert now <= before + 1e-3
        before = now


def test_true_directions_are_a_fixed_point_which_they_are_not_of_l1():
    # Correlated features at 45 degrees: shrinkage moves directions, the concave penalty does not.
    draw = generator("fixed")
    W = unit(torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    active = (torch.rand(5000, 1, generator=draw) < 0.2) & (torch.rand(5000, 2, generator=draw) < 0.8)
    x = (active * (2 + 3 * torch.rand(5000, 2, generator=draw))) @ W
    start = Overcomplete(W, torch.zeros(2))
    concave = fit_directions(x, start, ConcavePenalty(0.3, 3.0), Rounds(0, 0, 30), replace=False)
    convex = fit_directions(x, start, ConcavePenalty(0.3), Rounds(0, 0, 30), replace=False)
    assert float((concave.W * W).sum(1).min()) > 0.9999
    assert float((convex.W * W).sum(1).min()) < 0.9995
