"""Lasso codes satisfy the conditions of optimality, and agree with scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sae.dictionaries.lasso import Lasso


@pytest.fixture
def d() -> Lasso:
    g = torch.Generator().manual_seed(0)
    rows = torch.randn(12, 6, generator=g, dtype=torch.float64)
    rows /= rows.norm(dim=-1, keepdim=True)
    return Lasso.over(rows, torch.randn(6, generator=g, dtype=torch.float64), l1=0.1, n_iterations=3000)


def test_optimality(d: Lasso):
    x = torch.randn(20, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    z = d.encode(x)
    slope = (d.decode(z) - x) @ d.W_dec.T + d.l1  # gradient of the objective
    assert float(slope[z > 0].abs().max()) < 1e-6
    assert float(slope[z == 0].min()) > -1e-6


def test_agrees_with_scikit_learn(d: Lasso):
    from sklearn.linear_model import Lasso as Reference

    x = torch.randn(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    for row, z in zip(x, d.encode(x), strict=True):
        model = Reference(alpha=d.l1 / 6, positive=True, fit_intercept=False, tol=1e-12, max_iter=100_000)
        model.fit(d.W_dec.T.numpy(), (row - d.b_dec).numpy())
        np.testing.assert_allclose(z.numpy(), model.coef_, atol=1e-5)
