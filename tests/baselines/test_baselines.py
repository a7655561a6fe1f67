"""Classical methods give their known solutions."""

from __future__ import annotations

import pytest
import torch

from sae.baseline import training_pairs
from sae.baselines import data_points, ica, linear, neurons, oracle, pca, random
from sae.source import TensorSource
from sae.sources.independent import Config as Independent

SPARSE = Independent(n_features=30, d_in=12, probability=0.05)


def cosines(d, directions: torch.Tensor) -> torch.Tensor:
    return directions @ (d.W_dec / d.W_dec.norm(dim=-1, keepdim=True)).T


def test_neurons_are_an_exact_identity():
    d = neurons.Config().fit(SPARSE.build(), 0)
    x = torch.randn(50, 12) * 100
    assert torch.equal(d.decode(d.encode(x)), x)


def test_random_directions_are_unit_and_follow_the_seed():
    fit = random.Config(n_latents=40).fit
    source = SPARSE.build()
    torch.testing.assert_close(fit(source, 0).W_dec.norm(dim=-1), torch.ones(40))
    assert torch.equal(fit(source, 0).W_dec, fit(source, 0).W_dec)
    assert not torch.equal(fit(source, 0).W_dec, fit(source, 1).W_dec)


def test_data_points_are_rows_of_the_data():
    x = torch.randn(100, 5)
    d = data_points.Config(n_latents=7).fit(TensorSource(x), 0)
    best = cosines(d, x / x.norm(dim=-1, keepdim=True)).max(0).values
    torch.testing.assert_close(best, torch.ones(7))
    with pytest.raises(ValueError, match="n_latents = 700"):
        data_points.Config(n_latents=700).fit(TensorSource(x), 0)


def test_pca_finds_the_axes_of_an_ellipsoid_in_order_and_reconstructs():
    g = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(4, 4, generator=g)).Q
    x = torch.randn(20_000, 4, generator=g) * torch.tensor([8.0, 4.0, 2.0, 1.0]) @ basis + 3
    d = pca.Config().fit(TensorSource(x), 0)
    aligned = cosines(d, basis)[torch.arange(4), torch.arange(4)].abs()
    assert float(aligned.min()) > 0.99
    torch.testing.assert_close(d.decode(d.encode(x)), x, rtol=1e-4, atol=1e-4)


def test_ica_finds_as_many_sparse_features_as_dimensions_and_reconstructs():
    source = Independent(n_features=8, d_in=8, probability=0.1, values="exponential").build()
    d = ica.Config(n_samples=20_000).fit(source, 0)
    assert float(cosines(d, source.truth.directions).max(1).values.min()) > 0.97
    x = source.batch(9, 100).acts
    torch.testing.assert_close(d.decode(d.encode(x)), x, rtol=1e-3, atol=1e-3)
    assert d.card["converged"] is True


def test_a_linear_map_is_found_exactly():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(400, 5, generator=g) + 3
    y = x @ torch.randn(5, 2, generator=g) @ torch.randn(2, 5, generator=g) - 7  # of rank 2
    d = linear.Config(rank=2).fit(TensorSource(x, targets=y), 0)
    assert d.n_latents == 4
    torch.testing.assert_close(d.decode(d.encode(x)), y, rtol=1e-4, atol=1e-4)


def test_no_linear_map_of_the_rank_is_better():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(1000, 5, generator=g) @ torch.randn(5, 5, generator=g)
    y = torch.relu(x @ torch.randn(5, 12, generator=g)) @ torch.randn(12, 5, generator=g)
    source = TensorSource(x, targets=y)
    x, y = (rows.double() for rows in training_pairs(source, 1000, 0))
    errors: list[float] = []
    for rank in (1, 2, 3, 5):
        d = linear.Config(rank=rank).fit(source, 0).to(dtype=torch.float64)
        errors.append(float((d.decode(d.encode(x)) - y).square().sum()))
        # Eckart and Young: the least error is that of all linear maps and the singular values left out of their fit.
        a, b = x - x.mean(0), y - y.mean(0)
        fit = a @ torch.linalg.lstsq(a, b).solution
        left_out = torch.linalg.svdvals(fit)[rank:].square().sum()
        assert errors[-1] == pytest.approx(float((b - fit).square().sum() + left_out), rel=1e-5)
    assert errors == sorted(errors, reverse=True) and errors[-1] > 0


def test_without_targets_the_linear_map_is_that_of_the_principal_components():
    x = torch.randn(300, 6, generator=torch.Generator().manual_seed(0)) * torch.arange(1.0, 7) + 2
    a, b = linear.Config(rank=2).fit(TensorSource(x), 0), pca.Config(n_components=2).fit(TensorSource(x), 0)
    torch.testing.assert_close(a.decode(a.encode(x)), b.decode(b.encode(x)), rtol=1e-3, atol=1e-3)


def test_directions_that_never_vary_do_no_harm():
    x = torch.randn(300, 4)
    x[:, 2] = 5
    d = linear.Config().fit(TensorSource(x, targets=2 * x), 0)
    torch.testing.assert_close(d.decode(d.encode(x)), 2 * x, rtol=1e-4, atol=1e-4)


def test_the_oracle_is_the_ceiling():
    source = SPARSE.build()
    d = oracle.Config().fit(source, 0)
    assert torch.equal(d.W_dec, source.truth.directions)
    batch = source.batch(3, 500, "test")
    z = d.encode(batch.acts)
    hit = ((z > 0) & (batch.codes > 0)).sum() / (batch.codes > 0).sum()
    false = ((z > 0) & (batch.codes == 0)).sum() / (z > 0).sum()
    assert float(hit) > 0.9 and float(false) < 0.1
    one_layer = oracle.Config(encoder="relu").fit(source, 0)
    assert float((one_layer.encode(batch.acts) > 0).float().mean()) > 0.3  # interference: it fires everywhere
