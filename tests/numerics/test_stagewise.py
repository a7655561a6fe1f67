"""Stagewise least squares: exact where it can be, as often wrong as asked, and the same on every path."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from sae.numerics import stagewise as module
from sae.numerics.conjugate_gradients import SparseRows, damped_least_squares
from sae.numerics.seeds import generator
from sae.numerics.stagewise import deviations_for, fit_by_products, stagewise

D, N = 64, 200
DRAW = generator("stagewise", 0)
W = normalize(torch.randn(N, D, generator=DRAW, dtype=torch.float64))
Z = (0.2 + torch.rand(400, N, generator=DRAW, dtype=torch.float64)) * (torch.rand(400, N, generator=DRAW) < 0.015)
NOISE = torch.randn(400, D, generator=DRAW, dtype=torch.float64)


@pytest.mark.parametrize("start", [None, (Z @ W @ W.T).clamp_min(0)])
@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_loops_and_products_give_the_same(start: torch.Tensor | None, noise: float, monkeypatch: pytest.MonkeyPatch):
    x = Z @ W + noise * NOISE
    compiled = stagewise(x, W, 3.5, 3, 12, start)
    monkeypatch.setattr(module, "HAS_NUMBA", False)
    plain = stagewise(x, W, 3.5, 3, 12, start)
    torch.testing.assert_close(compiled.dense(N), plain.dense(N))
    torch.testing.assert_close(compiled.residual, plain.residual)


def test_without_noise_the_codes_are_exact():
    found = stagewise(Z @ W, W, 3.5, 6, 20).dense(N)
    assert float(((found > 0) == (Z > 0)).double().mean()) > 0.9999
    right = (found - Z).abs().amax(1) < 1e-4
    assert float(right.double().mean()) > 0.98


@pytest.mark.parametrize("alarms", [0.05, 1.0])
def test_chance_adds_as_often_as_asked(alarms: float):
    """Of pure noise, a latent survives the fit and the t-test as often as one normal variable of N exceeds `n_sd`."""
    x = torch.randn(4000, 256, generator=generator("chance", 0))
    directions = normalize(torch.randn(N, 256, generator=generator("chance", 1)))
    found = stagewise(x, directions, deviations_for(alarms, N), 1, 32)
    assert float((found.code > 0).sum(1).double().mean()) == pytest.approx(alarms, rel=0.25)


def test_a_code_is_least_squares_and_its_test_is_the_t_test():
    x = W[0] + 0.5 * W[1] + 0.1 * NOISE[:3]
    latent = torch.tensor([[0, 1, 2]]).expand(3, 3)
    fitted = fit_by_products(x, W, latent, torch.ones(3, 3, dtype=torch.bool), n_sd=0.0)
    for row in range(3):
        chosen = [0, 1] if fitted.code[row, 2] == 0 else [0, 1, 2]
        expected = torch.linalg.lstsq(W[chosen].T, x[row]).solution
        torch.testing.assert_close(fitted.code[row, : len(chosen)], expected, rtol=1e-3, atol=1e-4)
    # The t-test of a regression: a standard error is sigma sqrt of the inverse's diagonal.
    inverse = torch.linalg.inv(W[:3] @ W[:3].T)
    code = x @ W[:3].T @ inverse
    sigma = ((x - code @ W[:3]).square().sum(1) / (D - 3)).sqrt()
    t = code / inverse.diagonal().sqrt() / sigma[:, None]
    threshold = float(t[:, 2].max()) + 0.01
    kept = fit_by_products(x, W, latent, torch.ones(3, 3, dtype=torch.bool), n_sd=threshold)
    assert (
        bool((kept.code[:, 2] == 0).all()) and bool((t[:, :2] > threshold).all()) and bool((kept.code[:, :2] > 0).all())
    )


def test_of_two_equal_directions_one_is_active():
    double = torch.cat([W, W[:1]])
    found = stagewise(2 * W[:1].repeat(5, 1) + 0.02 * NOISE[:5], double, 3.5, 2, 8).dense(N + 1)
    assert bool(((found[:, [0, N]] > 1.9).sum(1) == 1).all())


@pytest.mark.parametrize("rows", [0, 1])
def test_no_samples_and_samples_of_zero_have_no_codes(rows: int):
    found = stagewise(torch.zeros(rows, D), W.float(), 4.0, 3, 8)
    assert found.code.shape == (rows, 8) and not bool(found.code.any()) and not bool(found.residual.any())


def test_blocks_do_not_change_codes(monkeypatch: pytest.MonkeyPatch):
    x = (Z @ W).float()
    whole = stagewise(x, W.float(), 3.5, 3, 12).dense(N)
    monkeypatch.setattr(module, "CELLS_AT_ONCE", 70 * 12 * D)
    torch.testing.assert_close(stagewise(x, W.float(), 3.5, 3, 12).dense(N), whole, rtol=1e-4, atol=1e-5)


def test_damped_least_squares_are_those_of_the_dense_solution():
    z, r, damping = Z[:, :40], NOISE, torch.rand(40, generator=DRAW, dtype=torch.float64)
    row, column = z.nonzero().T
    sparse = SparseRows.of(row, column, z[row, column], *z.shape)
    found = damped_least_squares(sparse, r, damping, 60)
    torch.testing.assert_close(found, torch.linalg.solve(z.T @ z + damping.diag(), z.T @ r), rtol=1e-3, atol=5e-4)
    nothing = damped_least_squares(sparse, torch.zeros_like(r), damping, 60)
    assert not bool(nothing.any())
