"""Shares of neurons in closed cases: one feature, several features with equal weights, none."""

from __future__ import annotations

import pytest
import torch

from sae.analysis.units.neurons import monosemantic_neurons, response_share, weight_share


def test_a_neuron_of_one_feature_has_share_one_whatever_its_sign_and_size():
    W = torch.diag(torch.tensor([3.0, -0.01, 1.0]))
    assert torch.equal(weight_share(W), torch.ones(3))
    assert monosemantic_neurons(weight_share(W)).sum() == 3


@pytest.mark.parametrize("k", [2, 3, 7])
def test_features_alike_share_a_neuron_evenly(k: int):
    W = torch.zeros(9, 1)
    W[:k] = 0.4
    assert weight_share(W).item() == pytest.approx(1 / k) and response_share(W).item() == pytest.approx(1 / k)


def test_weights_count_by_their_squares_and_responses_as_they_are():
    W = torch.tensor([[3.0], [-1.0]])
    assert weight_share(W).item() == pytest.approx(9 / 10)
    assert response_share(W.abs()).item() == pytest.approx(3 / 4)
    assert response_share(W).item() == 1.0, "an activation below zero is none"


def test_a_neuron_that_nothing_reaches_is_neither():
    W = torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    for share in (weight_share(W), response_share(W)):
        assert share.isnan().tolist() == [True, False]
        assert monosemantic_neurons(share).tolist() == [False, True]


def test_shares_depend_on_the_basis_and_not_on_the_order_of_features():
    W = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(weight_share(W[[4, 2, 0, 1, 3]]), weight_share(W))
    quarter = torch.tensor([[1.0, 1.0], [-1.0, 1.0]]) / 2**0.5
    torch.testing.assert_close(weight_share(torch.eye(2) @ quarter), torch.tensor([0.5, 0.5]))


def test_the_threshold_is_what_tells_them_apart():
    share = torch.tensor([0.5, 0.85, 0.95])
    assert [int(monosemantic_neurons(share, t).sum()) for t in (0.4, 0.8, 0.9, 0.99)] == [3, 2, 1, 0]
