"""Training of toy networks: the inputs of every instance, and its independence of the others."""

from __future__ import annotations

import pytest
import torch

from sae.analysis.geometry.geometry import dimensionality
from sae.numerics.seeds import generator
from sae.sources.network import Config
from sae.toys.networks.training import measure, train_networks, unexplained

PENTAGON = {"n_features": 5, "activity": {"kind": "independent", "probability": 0.05}, "network": {"hidden": [2]}}
SHORT = {"steps": 40, "batch_size": 64}


def trained(**settings) -> dict[str, torch.Tensor]:
    return Config(**{**PENTAGON, "training": SHORT, **settings}).tensors()


def test_the_training_of_an_instance_does_not_depend_on_the_others():
    densities = [1, 0.3, 0.05]
    alone = trained(instances=1, activity={"kind": "independent", "probability": 0.3})
    many = trained(instances=2, vary={"activity.probability": densities})
    for name in ("parameter.W_1", "parameter.b_out", "loss", "unexplained"):
        torch.testing.assert_close(alone[name][0], many[name][2], rtol=1e-4, atol=1e-6)
    assert not torch.allclose(many["parameter.W_1"][2], many["parameter.W_1"][4])


def test_the_same_settings_give_the_same_bits():
    first, again, other = trained(), trained(), trained(seed=1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["parameter.W_1"], other["parameter.W_1"])


def test_points_have_their_own_laws_from_the_same_draws_and_share_rows_where_the_law_is_the_same():
    config = Config(
        **PENTAGON, instances=2, vary={"activity.probability": [0.5, 0.1], "importance": [[1] * 5, [2] * 5]}
    )
    population = config.population()
    assert len(population.inputs) == 2 and population.which.tolist() == [0] * 4 + [1] * 4
    rows = population.rows(3, 500)
    assert torch.equal(rows[0], rows[3]) and torch.equal(rows[4], rows[7])
    dense, sparse = rows[0], rows[4]
    assert bool(((sparse > 0) <= (dense > 0)).all()), "a sparse feature fires only where the dense one does"
    assert 0.4 < float((dense > 0).float().mean()) < 0.6 and 0.05 < float((sparse > 0).float().mean()) < 0.15
    assert population.importance[:, 0].tolist() == [1, 1, 2, 2, 1, 1, 2, 2]
    assert not torch.equal(population.rows(3, 500, "test"), rows)


def test_signs_are_fair_and_unit_rows_have_length_one():
    config = Config(**PENTAGON, signed=True, unit=True)
    x = config.inputs().rows(0, 4000)
    length = x.norm(dim=1)
    assert set(length.round(decimals=5).tolist()) == {0.0, 1.0}
    assert 0.4 < float((x > 0).sum() / (x != 0).sum()) < 0.6


def test_the_loss_is_the_mean_over_rows_and_outputs_weighted_by_importance():
    config = Config(**PENTAGON, instances=2, importance=[5, 4, 3, 2, 1])
    population, networks = config.population(), config.untrained()
    x = torch.rand(1, 30, 5, generator=generator("x"))
    y = networks(x).output
    by_hand = [((y[i] - x[0]).square() * torch.tensor([5.0, 4, 3, 2, 1])).mean() for i in range(2)]
    torch.testing.assert_close(population.loss(networks(x), x), torch.stack(by_hand))
    perfect = networks(x)._replace(output=x.expand(2, -1, -1))
    assert population.loss(perfect, x).tolist() == [0, 0]


def test_cross_entropy_is_torchs():
    config = Config(
        n_features=4,
        activity={"kind": "independent", "probability": 0.4},
        task="classify",
        network={"hidden": [3], "tied": False, "output": "linear"},
        instances=1,
    )
    population, networks = config.population(), config.untrained()
    x = population.rows(0, 64)
    logits, target = networks(x).output[0], config.computes.target(x[0]).argmax(1)
    torch.testing.assert_close(
        population.loss(networks(x), x)[0], torch.nn.functional.cross_entropy(logits, target), rtol=1e-5, atol=1e-6
    )
    assert bool(unexplained(networks, population).isnan().all())


def test_dropout_keeps_the_mean_and_differs_by_instance():
    config = Config(**PENTAGON, instances=1, vary={"network.dropout": [0.0, 0.5]})
    drop = config.population().dropout_layer(generator("drop"))
    assert drop is not None
    h = drop(torch.ones(2, 20_000, 3))
    assert bool((h[0] == 1).all()) and set(h[1].unique().tolist()) == {0.0, 2.0}
    assert float(h[1].mean()) == pytest.approx(1, abs=0.03)
    assert Config(**PENTAGON).population().dropout_layer(generator("drop")) is None


def test_weight_decay_shortens_and_when_negative_lengthens():
    lengths = trained(instances=1, vary={"training.weight_decay": [1.0, 0.0, -1.0]})["parameter.W_1"].norm(dim=(1, 2))
    assert float(lengths[0]) < float(lengths[1]) < float(lengths[2])


def test_a_penalty_on_the_hidden_layer_makes_it_smaller():
    size = trained(instances=1, vary={"network.hidden_l1": [0.0, 0.1]})["parameter.W_1"].norm(dim=(1, 2))
    assert float(size[1]) < float(size[0])


def test_with_n_samples_every_step_uses_the_same_samples():
    config = Config(**PENTAGON, instances=1, training={"steps": 3, "n_samples": 6})
    population = config.population()
    states = [(s.step, s.loss.clone()) for s in train_networks(config.untrained(), population, config.training)]
    assert [step for step, _ in states] == [0, 1, 2, 3]
    begin = config.untrained()
    x = population.rows(0, 6)
    torch.testing.assert_close(states[0][1], population.loss(begin(x), x))
    torch.testing.assert_close(measure(begin, population, config.training), states[0][1])


@pytest.mark.usefixtures("shapes_unchecked")
def test_a_linear_bottleneck_ends_at_the_closed_form():
    """It keeps the two most important of five; the others cost p/3 - p^2/4 each (Elhage et al. 2022)."""
    p, importance = 0.3, [0.7**i for i in range(5)]
    found = trained(
        activity={"kind": "independent", "probability": p},
        network={"hidden": [2], "output": "linear"},
        importance=importance,
        instances=2,
        training={"steps": 2000, "batch_size": 512, "lr": 5e-3},
    )
    expected = (p / 3 - p**2 / 4) * sum(importance[2:]) / 5
    assert float(found["loss"].min()) == pytest.approx(expected, rel=0.02)
    assert (found["parameter.W_1"][0].norm(dim=1) > 0.5).tolist() == [True, True, False, False, False]


@pytest.mark.usefixtures("shapes_unchecked")
def test_five_sparse_features_in_two_dimensions_are_a_pentagon():
    """In most instances, .4 of a dimension each."""
    found = trained(instances=16, training={"steps": 1500, "batch_size": 256})
    D = torch.stack([dimensionality(w) for w in found["parameter.W_1"]])
    assert int(((D - 0.4).abs() < 0.03).all(1).sum()) >= 8
    assert float(D.sum(1).max()) <= 2 + 1e-3
