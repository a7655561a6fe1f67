"""k-SVD, k-means, NMF and sparse PCA recover planted structure whose solution is known."""

from __future__ import annotations

import pytest
import torch

from sae.baselines import kmeans, ksvd, nmf, sparse_pca
from sae.numerics.matching import unit
from sae.numerics.seeds import generator
from sae.source import TensorSource
from sae.sources.independent import Config as Independent


def orthonormal(n: int) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(n, n, generator=generator("orthonormal", 0))).Q


def one_at_a_time(directions: torch.Tensor, n_rows: int, noise: float = 0.0) -> torch.Tensor:
    """Samples with one active direction each, with codes from .5 to 1.5."""
    draw = generator("one", 0)
    which = torch.randint(len(directions), (n_rows,), generator=draw)
    rows = (0.5 + torch.rand(n_rows, 1, generator=draw)) * directions[which]
    return rows + noise * torch.randn(rows.shape, generator=draw)


def best(d, directions: torch.Tensor) -> torch.Tensor:
    return (directions @ d.W_dec.T).max(1).values


def test_ksvd_with_one_direction_a_row_recovers_orthogonal_ones():
    """Some of the initial samples share a direction: duplicates must be replaced by unexplained samples."""
    Q = orthonormal(12)
    x = one_at_a_time(Q, 600)
    d = ksvd.Config(n_latents=12, k=1, n_iterations=10, n_samples=480).fit(TensorSource(x), 0)
    torch.testing.assert_close(best(d, Q), torch.ones(12))
    torch.testing.assert_close(d.decode(d.encode(x)), x, rtol=1e-4, atol=1e-5)


def test_ksvd_recovers_more_directions_than_dimensions():
    source = Independent(n_features=40, d_in=20, probability=0.05, values="uniform").build()
    d = ksvd.Config(n_latents=40, k=3, n_samples=4000, n_iterations=15).fit(source, 0)
    assert source.truth is not None
    found = best(d, source.truth.directions)
    assert float(found.mean()) > 0.95 and float((found > 0.9).float().mean()) > 0.85


def test_ksvd_turns_with_the_data():
    x, Q = torch.randn(400, 8, generator=generator("turned", 0)), orthonormal(8)  # no two rows alike: no ties
    one, other = (ksvd.Config(n_latents=12, k=2, n_iterations=3).fit(TensorSource(rows), 0) for rows in (x, x @ Q))
    torch.testing.assert_close(other.W_dec, one.W_dec @ Q, rtol=1e-3, atol=1e-4)


def test_a_renewed_direction_is_the_leading_singular_vector_where_no_code_is_cut_off():
    draw = generator("renewed", 0)
    x = (0.5 + torch.rand(60, 1, generator=draw)) * unit(torch.ones(1, 7)) + 0.1 * torch.rand(60, 7, generator=draw)
    W = unit(torch.rand(1, 7, generator=draw))
    for _ in range(6):
        W = ksvd.updated_directions(x, torch.relu(x @ W.T), W)
    leading = torch.linalg.svd(x, full_matrices=False).Vh[:1]
    torch.testing.assert_close(W, leading * leading.sum().sign(), rtol=1e-4, atol=1e-5)


def test_a_renewal_never_makes_the_error_larger():
    draw = generator("error", 0)
    x, W = torch.randn(200, 10, generator=draw), unit(torch.randn(15, 10, generator=draw))
    z = ksvd.pursuit_codes(x, W, 3, 0.0)
    after = ksvd.updated_directions(x, z, W)
    again = ksvd.pursuit_codes(x, after, 3, 0.0)
    assert float((x - again @ after).square().sum()) < float((x - z @ W).square().sum())


def test_unused_and_doubled_directions_give_way_to_the_worst_rows():
    W = torch.tensor([[1.0, 0, 0, 0], [1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 1.0, 0]])
    x = torch.tensor([[1.0, 0, 0, 0], [2.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 0, 5.0], [0, 0, -3.0, 0]])
    z = torch.tensor([[1.0, 0, 0, 0], [2.0, 0, 0, 0], [0, 0, 1.0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    z[1, 1], z[1, 0] = 1.0, 1.0  # the second is used, but less than its duplicate
    config = ksvd.Config(n_latents=4, k=1)
    new, codes = config.replace_unused(x, z, W)
    assert torch.equal(new[[0, 2]], W[[0, 2]])
    assert torch.equal(new[[1, 3]], torch.tensor([[0, 0, 0, 1.0], [0, 0, -1.0, 0]]))
    assert not bool(codes[:, [1, 3]].any())


@pytest.mark.parametrize("encoder", ["nearest", "relu"])
def test_kmeans_finds_separated_clusters_however_strong_their_rows_are(encoder: str):
    Q = orthonormal(10)
    x = one_at_a_time(Q, 1000, noise=0.02)
    d = kmeans.Config(n_latents=10, encoder=encoder).fit(TensorSource(x), 0)
    assert float(best(d, Q).min()) > 0.999
    assert d.card["converged"] is True
    z = d.encode(x)
    assert torch.equal((z > 0).sum(1), torch.ones(1000, dtype=torch.int64)) == (encoder == "nearest")
    assert torch.equal((x @ Q.T).argmax(1), (d.W_dec @ Q.T).argmax(1)[z.argmax(1)])


def test_kmeans_with_a_centroid_for_every_row_is_the_rows():
    x = torch.randn(20, 6, generator=generator("rows", 0))
    d = kmeans.Config(n_latents=16).fit(TensorSource(x), 0)
    torch.testing.assert_close(best(d, unit(x)).sort().values[-16:], torch.ones(16))


def test_nmf_is_exact_on_rows_of_low_non_negative_rank():
    draw = generator("nmf", 0)
    H = torch.rand(4, 12, generator=draw) * (torch.rand(4, 12, generator=draw) < 0.5)
    Z = torch.rand(500, 4, generator=draw) * (torch.rand(500, 4, generator=draw) < 0.6)
    x = Z @ H
    d = nmf.Config(n_latents=4, n_iterations=600).fit(TensorSource(x), 0)
    assert float((d.decode(d.encode(x)) - x).square().sum() / (x - x.mean(0)).square().sum()) < 1e-3
    assert float(d.W_dec.min()) >= 0 and float(best(d, unit(H)).min()) > 0.98


def test_nmf_has_directions_of_both_signs_where_the_rows_do():
    draw = generator("signs", 0)
    H = torch.randn(3, 12, generator=draw)
    x = torch.rand(500, 3, generator=draw) * torch.eye(3)[torch.randint(3, (500,), generator=draw)] @ H
    d = nmf.Config(n_latents=3, n_iterations=300).fit(TensorSource(x), 0)
    assert float(best(d, unit(H)).min()) > 0.99
    assert float((d.decode(d.encode(x)) - x).square().sum() / (x - x.mean(0)).square().sum()) < 1e-2


def test_sparse_components_are_found_by_their_coordinates_and_read_back():
    draw = generator("sparse", 0)
    V = torch.block_diag(*(torch.ones(1, 3) / 3**0.5 for _ in range(4)))
    x = torch.randn(400, 4, generator=draw) * torch.tensor([4.0, 3.0, 2.0, 1.5]) @ V
    x = x + 0.05 * torch.randn(400, 12, generator=draw) + 2
    d = sparse_pca.Config(n_components=4, n_iterations=50).fit(TensorSource(x), 0)
    assert d.n_latents == 8 and float(best(d, V).min()) > 0.99
    assert float((d.W_dec.abs() > 1e-6).sum(1).float().mean()) <= 4
    assert float((d.decode(d.encode(x)) - x).square().sum() / (x - x.mean(0)).square().sum()) < 0.02


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (ksvd.Config(n_latents=300, n_samples=500), "ksvd: n_latents = 300: only 160 samples are not zero"),
        (kmeans.Config(n_latents=300), "kmeans: n_latents = 300: only 160 samples are not zero"),
        (sparse_pca.Config(n_components=30_000), "n_components = 30000 on n_samples = 160 of width 8: "),
        (sparse_pca.Config(alpha=1000.0), "alpha = 1000.0: every component is zero"),
    ],
)
def test_what_cannot_be_done_is_refused(config, words: str):
    with pytest.raises(ValueError, match=words):
        config.fit(TensorSource(torch.randn(200, 8)), 0)


def test_a_pursuit_of_more_steps_than_directions_is_refused():
    with pytest.raises(ValueError, match="k = 6: more than n_latents = 5"):
        ksvd.Config(n_latents=5)
