"""Lasso codes satisfy the conditions of optimality; every solver agrees with a reference implementation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from sae.encoders.fista import Fista
from sae.numerics.sparse_coding import largest_eigenvalue, lasso, pursuit, sparse_codes


def directions(n_latents: int, d_in: int, seed: int = 0) -> Tensor:
    rows = torch.randn(n_latents, d_in, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return rows / rows.norm(dim=-1, keepdim=True)


def rows_of(W_dec: Tensor, n: int = 20, k: int = 3) -> Tensor:
    """Sparse combinations of the directions, and a little noise."""
    g = torch.Generator().manual_seed(1)
    codes = torch.rand(n, len(W_dec), generator=g, dtype=torch.float64)
    codes *= torch.rand(n, len(W_dec), generator=g) < k / len(W_dec)
    return codes @ W_dec + 0.05 * torch.randn(n, W_dec.shape[1], generator=g, dtype=torch.float64)


@pytest.fixture
def d() -> Fista:
    b_dec = torch.randn(6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return Fista.over(directions(12, 6), b_dec, l1=0.1, n_iterations=3000)


def test_optimality(d: Fista):
    x = torch.randn(20, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    z = d.encode(x)
    slope = (d.decode(z) - x) @ d.W_dec.T + d.l1  # gradient of the objective
    assert float(slope[z > 0].abs().max()) < 1e-6
    assert float(slope[z == 0].min()) > -1e-6


def test_agrees_with_scikit_learn(d: Fista):
    from sklearn.linear_model import Lasso as Reference

    x = torch.randn(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    for row, z in zip(x, d.encode(x), strict=True):
        model = Reference(alpha=d.l1 / 6, positive=True, fit_intercept=False, tol=1e-12, max_iter=100_000)
        model.fit(d.W_dec.T.numpy(), (row - d.b_dec).numpy())
        np.testing.assert_allclose(z.numpy(), model.coef_, atol=1e-5)


@pytest.mark.parametrize("n_latents", [12, 40])
def test_a_row_stops_when_it_has_converged_whatever_the_other_rows(n_latents: int):
    W = directions(n_latents, 6)
    x = rows_of(W)
    exact = lasso(x @ W.T - 0.05, W, 5000)
    near = lasso(x @ W.T - 0.05, W, 5000, tolerance=1e-8)
    torch.testing.assert_close(near, exact, atol=1e-5, rtol=0)
    alone = torch.cat([lasso(row @ W.T - 0.05, W, 5000, tolerance=1e-3) for row in x.split(1)])
    torch.testing.assert_close(lasso(x @ W.T - 0.05, W, 5000, tolerance=1e-3), alone, atol=1e-12, rtol=0)


def test_least_squares_on_a_support_agrees_with_scipy():
    from scipy.optimize import nnls

    W = directions(12, 6)
    x = rows_of(W)
    support = torch.rand(len(x), 12, generator=torch.Generator().manual_seed(2)) < 0.4
    z = lasso(x @ W.T, W, 20_000, tolerance=1e-12, support=support)
    for row, chosen, codes in zip(x, support, z, strict=True):
        expected = np.zeros(12)
        if bool(chosen.any()):
            expected[chosen.numpy()] = nnls(W[chosen].T.numpy(), row.numpy())[0]
        np.testing.assert_allclose(codes.numpy(), expected, atol=1e-6)


def test_sparse_codes_have_neither_shrinkage_nor_tiny_codes():
    W = directions(12, 30)
    codes = torch.zeros(4, 12, dtype=torch.float64)
    codes[torch.arange(4), torch.arange(4)] = torch.tensor([0.5, 1.0, 2.0, 0.02], dtype=torch.float64)
    shrunk, debiased = sparse_codes(codes @ W, W, l1=0.01, threshold=0.05, n_iterations=2000, tolerance=1e-10)
    assert bool((shrunk[:3].amax(1) < codes[:3].amax(1)).all())
    torch.testing.assert_close(debiased[:3], codes[:3], atol=1e-6, rtol=0)
    assert not bool(debiased[3].any()), "0.02 is below the threshold"


def naive_pursuit(x: Tensor, W: Tensor, k: int, tolerance: float) -> Tensor:
    """One row and one latent at a time, as in the paper."""
    z, chosen = torch.zeros(len(W), dtype=x.dtype), list[int]()
    for _ in range(k):
        residual = x - z @ W
        along = (residual @ W.T) / W.norm(dim=-1)
        along[chosen] = -1
        if float(residual.norm()) <= tolerance * float(x.norm()) or float(along.max()) <= 1e-12:
            break
        chosen.append(int(along.argmax()))
        while True:
            values = torch.linalg.lstsq(W[chosen].T, x[:, None]).solution[:, 0]
            if bool((values > 0).all()):
                break
            chosen = [j for j, value in zip(chosen, values.tolist(), strict=True) if value > 0]
        z = torch.zeros_like(z)
        z[chosen] = values
    return z


@pytest.mark.parametrize(("k", "tolerance"), [(1, 0.0), (3, 0.0), (8, 0.2)])
def test_pursuit_agrees_with_its_naive_twin(k: int, tolerance: float):
    W = directions(15, 6) * torch.linspace(0.5, 2, 15, dtype=torch.float64)[:, None]
    x = rows_of(W, n=40)
    z = pursuit(x @ W.T, W, x.square().sum(-1), k, tolerance)
    expected = torch.stack([naive_pursuit(row, W, k, tolerance) for row in x])
    torch.testing.assert_close(z, expected, atol=1e-6, rtol=0)
    assert int((z > 0).sum(-1).max()) == min(k, int((expected > 0).sum(-1).max()))


@pytest.mark.parametrize("n_latents", [4, 9])
def test_largest_eigenvalue_from_either_gram_matrix(n_latents: int):
    W = directions(n_latents, 6)
    torch.testing.assert_close(largest_eigenvalue(W), torch.linalg.eigvalsh(W @ W.T)[-1])
