"""Losses by the number of active features: they average to the network's loss, and are grouped correctly."""

from __future__ import annotations

import pytest
import torch

from sae.analysis.toy_models.by_active import mean_by_active, network_losses
from sae.sources.network import Config, Hidden
from sae.toys.networks.training import measure


def a_network(task: str = "identity", **settings: object) -> Hidden:
    tied = task == "identity"
    table = {
        "n_features": 4,
        "activity": {"kind": "independent", "probability": 0.3},
        "network": {"hidden": (2,), "tied": tied, "output": "linear" if task == "classify" else "relu"},
        "training": {"steps": 40, "batch_size": 512},
        "instances": 2,
        "task": task,
    }
    return Config(**(table | settings)).build()  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("task", ["identity", "absolute", "classify"])
def test_the_mean_over_rows_is_the_loss_that_was_trained_on(task: str):
    importance = {} if task == "classify" else {"importance": {"kind": "geometric", "first": 1.0, "ratio": 0.5}}
    source = a_network(task, **importance)
    losses, n_active = network_losses(source, 2048)
    wanted = measure(source.networks, source.config.population(), source.config.training, "test", 2048)[source.index]
    torch.testing.assert_close(losses.mean(), wanted, rtol=1e-5, atol=0)
    assert n_active.unique().tolist() == [0, 1, 2, 3, 4]


def test_only_rows_with_just_so_many_active_features_count():
    source = a_network(activity={"kind": "fixed", "k": 2})
    assert network_losses(source, 100)[1].tolist() == [2] * 100


def test_strata_hold_means_and_intervals_and_leave_out_what_is_seldom():
    values, k = torch.tensor([1.0, 3.0, 5.0, 5.0, 9.0]), torch.tensor([1, 1, 2, 2, 7])
    one, two = mean_by_active(values, k, least_rows=2)
    assert (one.n_active, one.n_rows, one.mean) == (1, 2, 2.0)
    assert one.half == pytest.approx(1.96 * 2**0.5 / 2**0.5)
    assert (two.n_active, two.mean, two.half) == (2, 5.0, 0.0)
    assert mean_by_active(values, k, least_rows=3) == []


def test_one_feature_alone_is_free_where_opposite_features_are_rare():
    """Two opposite features in one dimension: each alone is reconstructed exactly, both at once cannot be."""
    source = a_network(n_features=2, network={"hidden": (1,)})
    W = torch.tensor([[[1.0], [-1.0]]])
    source.network = source.network.with_parameters({"W_1": W, "b_out": torch.zeros(1, 2)})
    losses, n_active = network_losses(source, 4000)
    none, alone, both = mean_by_active(losses, n_active)
    assert none.mean == 0 and alone.mean < 1e-12
    # E min(x, y)^2 = 1/6 for each of two outputs, whose mean is the loss.
    assert both.mean == pytest.approx(1 / 6, abs=3 * both.half)
