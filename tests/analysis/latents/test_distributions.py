"""Histograms and correlations of the second pass, against direct ones over all codes at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sae.analysis.latents import Exploration, LatentsConfig, explore_latents
from sae.analysis.latents.distributions import Histograms, distributions, logit_histograms
from sae.dictionaries.relu import Relu
from sae.numerics.seeds import generator
from sae.sources.independent import Config as Independent

N_BINS, N_BEST = 20, 3
Case = tuple[Relu, Exploration, torch.Tensor, torch.Tensor]


@pytest.fixture(scope="module")
def case() -> Case:
    """A dictionary with a latent that never fires, its exploration, all codes and all activations."""
    source = Independent(n_features=16, d_in=8, probability=0.15).build()
    W = torch.randn(24, 8, generator=generator("distributions"))
    W = W / W.norm(dim=1, keepdim=True)
    bias = torch.full((24,), -0.1)
    bias[5] = -100.0
    d = Relu(W.T.contiguous(), W, bias, torch.zeros(8))
    explored = explore_latents(d, source, LatentsConfig(n_tokens=3000, latents=(2, 5, 9, 17)), lambda *_: None)
    acts = torch.cat([piece.acts for piece in explored.reading.pieces()])
    return d, explored, d.encode(acts), acts


def test_histograms_are_those_of_all_activations(case: Case):
    d, explored, z, _ = case
    counted = distributions(d, explored, N_BINS, N_BEST, lambda *_: None)
    assert counted.n_rows == len(z)
    for i, j in enumerate(explored.shown.tolist()):
        positive = z[:, j][z[:, j] > 0]
        assert int(counted.histograms.height[i].sum()) == len(positive)
        if len(positive):
            expected = np.histogram(positive.double().numpy(), N_BINS)
            # An activation within rounding of a border may fall on either side.
            assert np.abs(counted.histograms.height[i].numpy() - expected[0]).sum() <= 4
            middles = (expected[1][1:] + expected[1][:-1]) / 2
            np.testing.assert_allclose(counted.histograms.centre[i].numpy(), middles, rtol=1e-4)


def test_shares_of_intervals_add_up_to_the_firing_rate(case: Case):
    d, explored, z, _ = case
    shares = distributions(d, explored, N_BINS, N_BEST, lambda *_: None).interval_share
    torch.testing.assert_close(shares.sum(1), explored.tally.rate[explored.shown])
    n = explored.settings.n_intervals
    own = z[:, 9]
    highest = ((own > own.max() * (n - 1) / n) & (own > 0)).float().mean()
    assert float(shares[2, 0]) == pytest.approx(float(highest), abs=2 / len(z))


def test_correlations_are_those_of_numpy(case: Case):
    d, explored, z, acts = case
    counted = distributions(d, explored, N_BINS, N_BEST, lambda *_: None)
    for i, j in enumerate(explored.shown.tolist()):
        if j == 5:
            assert counted.coordinates.variable[i].tolist() == [-1] * N_BEST
            assert bool(counted.coordinates.pearson[i].isnan().all())
            continue
        every = np.array([np.corrcoef(z[:, j].numpy(), y.numpy())[0, 1] for y in acts.T])
        best = every.argsort()[::-1][:N_BEST]
        assert counted.coordinates.variable[i].tolist() == best.tolist()
        np.testing.assert_allclose(counted.coordinates.pearson[i].numpy(), every[best], atol=1e-4)
        cosine = torch.nn.functional.cosine_similarity(z[:, j, None].double(), acts[:, best.copy()].double(), dim=0)
        np.testing.assert_allclose(counted.coordinates.cosine[i].numpy(), cosine.numpy(), atol=1e-4)
        partners = [p for p in explored.partners.latent[i].tolist() if p >= 0]
        of_partners = {p: np.corrcoef(z[:, j].numpy(), z[:, p].numpy())[0, 1] for p in partners}
        expected = sorted(partners, key=lambda p: -of_partners[p])[:N_BEST]
        assert [p for p in counted.partners.variable[i].tolist() if p >= 0] == expected
        found = counted.partners.pearson[i][: len(expected)].numpy()
        np.testing.assert_allclose(found, [of_partners[p] for p in expected], atol=1e-4)


def test_histograms_over_the_vocabulary():
    effect = torch.tensor([[0.0, 1.0, 2.0, 4.0], [3.0, 3.0, 3.0, 3.0]])
    found = logit_histograms(lambda rows: iter([effect]), torch.zeros(2, 3), 4)
    assert found.height.tolist() == [[1, 1, 1, 1], [4, 0, 0, 0]]
    assert found.centre[0].tolist() == [0.5, 1.5, 2.5, 3.5]
    assert isinstance(found, Histograms)
