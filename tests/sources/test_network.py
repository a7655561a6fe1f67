"""Toy networks as sources: their hidden layers agree with the truth that the source states."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from sae.sources.network import Config, longest_of_merged

INDEPENDENT = {"kind": "independent", "probability": 0.2}
SHORT = {"steps": 30, "batch_size": 64}
BOTTLENECK = {"n_features": 6, "activity": INDEPENDENT, "network": {"hidden": [3]}, "training": SHORT, "instances": 3}
ABSOLUTE = {
    **BOTTLENECK,
    "task": "absolute",
    "signed": True,
    "network": {"hidden": [12], "tied": False, "activation": "relu"},
}


@pytest.mark.parametrize("signed", [False, True])
def test_a_bottlenecks_rows_are_its_features_exactly(signed: bool):
    source = Config(**BOTTLENECK, signed=signed).build()
    batch, truth = source.batch(2, 200), source.truth
    assert truth is not None and batch.codes is not None and truth.kind == "exact"
    torch.testing.assert_close(batch.acts, batch.codes @ truth.directions, rtol=1e-4, atol=1e-6)
    W, sides = source.network.W[0], 2 if signed else 1
    assert truth.directions.shape == (6 * sides, 3) and float(batch.codes.min()) >= 0
    torch.testing.assert_close(truth.directions[:6] * W.norm(dim=1, keepdim=True), W)
    fired = (source.batch(0, 20_000).codes > 0).float().mean(0)
    torch.testing.assert_close(fired, truth.probability, atol=0.02, rtol=0)
    assert source.missed < 1e-9


def test_short_rows_are_not_represented_and_merged_ones_count_once():
    rows = torch.tensor([[1.0, 0.0], [0.9, 0.01], [0.0, 1.0], [0.0, 0.3], [-1.0, 0.0]])
    assert longest_of_merged(rows).tolist() == [True, False, True, False, True]
    config = Config(**BOTTLENECK)
    tensors = {n: t.clone() for n, t in config.tensors().items()}
    tensors["parameter.W_1"][:] = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0.4], [0, 0, 0], [1.1, 0, 0]])
    truth = config.assemble(tensors).truth
    assert truth is not None and truth.represented.tolist() == [False, True, True, False, False, True]
    assert bool(truth.directions.isfinite().all())


def test_behind_a_nonlinearity_truth_is_the_response_to_each_feature_alone():
    source = Config(**ABSOLUTE).build()
    truth = source.truth
    assert truth is not None and truth.kind == "responses" and truth.directions.shape == (12, 12)
    alone = torch.zeros(6)
    alone[4] = -1
    answer = source.network(alone[None, None], depth=1).output[0, 0]
    torch.testing.assert_close(truth.directions[6 + 4] * source.rows[6 + 4].norm(), answer)
    single = torch.diag(torch.tensor([0.3, -0.2, 0.9, -0.7, 0.5, 0.1]))
    acts = source.network(single[None], depth=1).output[0]
    torch.testing.assert_close(acts, source.codes_of(single) @ truth.directions, rtol=1e-4, atol=1e-6)
    assert 0 < source.missed < 1, "features share neurons, so the answers do not add up"


def test_responses_add_up_where_every_feature_has_neurons_of_its_own():
    config = Config(**ABSOLUTE)
    tensors = config.tensors()
    tensors["parameter.W_1"][:] = torch.cat([torch.eye(6), -torch.eye(6)], 1)
    assert config.assemble(tensors).missed < 1e-12


def test_a_hidden_bias_is_an_offset():
    network = {"hidden": [3], "tied": False, "hidden_bias": True, "hidden_bias_start": 0.5}
    source = Config(**{**BOTTLENECK, "network": network}).build()
    batch, truth = source.batch(0, 100), source.truth
    assert truth is not None and truth.offset is not None and batch.codes is not None
    torch.testing.assert_close(batch.acts, batch.codes @ truth.directions + truth.offset, rtol=1e-4, atol=1e-6)


def test_the_best_instance_of_a_point_is_the_one_with_the_lowest_loss_on_other_rows():
    config = Config(**{**BOTTLENECK, "vary": {"activity.probability": [0.9, 0.1]}, "point": 1})
    tensors = config.tensors()
    source = config.assemble(tensors)
    assert source.index == 3 + int(tensors["choose_loss"][3:].argmin()) and source.at(1) == slice(3, 6)
    fixed = Config(**{**config.model_dump(), "instance": 0}).assemble(tensors)
    assert fixed.index == 3
    assert float((source.batch(0, 5000).codes > 0).float().mean()) == pytest.approx(0.1, abs=0.02)


def test_the_last_or_any_hidden_layer_can_be_read():
    network = {"hidden": [5, 4], "tied": False, "activation": "relu"}
    first, last = (Config(**{**BOTTLENECK, "network": network, "layer": i}).build() for i in (0, -1))
    assert (first.d_in, last.d_in) == (5, 4)
    x = first.inputs.rows(0, 50)
    hidden = first.network(x[None]).hidden
    assert torch.equal(first.batch(0, 50).acts, hidden[0][0]) and torch.equal(last.batch(0, 50).acts, hidden[1][0])


def test_properties_of_the_output_are_labels():
    network = {"hidden": [4], "tied": False, "activation": "relu"}
    source = Config(**{**BOTTLENECK, "task": "and", "network": network}).build()
    labelled = source.labelled()
    assert "labels" in source.config.provides and labelled is not None
    choose, test = labelled
    assert set(test.labels) == {"and(0,1)", "and(2,3)", "and(4,5)"} and not torch.equal(choose.acts, test.acts)
    assert test.codes is not None
    both = (test.codes[:, 2] > 0) & (test.codes[:, 3] > 0)
    assert torch.equal(test.labels["and(2,3)"].bool(), both)
    assert Config(**BOTTLENECK).build().labelled() is None


def test_what_was_prepared_opens_as_what_was_built(tmp_path: Path):
    config = Config(**ABSOLUTE)
    reported = []
    config.prepare(tmp_path, lambda done, total, unit: reported.append((done, total, unit)), "cpu")
    assert reported[0] == (0, 30, "steps") and reported[-1] == (30, 30, "steps")
    opened, built = config.open(tmp_path, "cpu"), config.build()
    assert torch.equal(opened.batch(3, 50, "test").acts, built.batch(3, 50, "test").acts)
    assert opened.index == built.index


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"task": "nothing"}, "is not a known task"),
        ({"task": "and"}, "3 outputs for 6 features; set network.tied = false"),
        ({"activity": {"kind": "independent", "probability": 1.2}}, "a probability is above 0 and at most 1"),
        ({"activity": {"kind": "one_of", "size": 4}}, "does not divide"),
        ({"layer": 1}, "the network has 1 hidden layers; give -1 to 0"),
        ({"instance": 3}, "give 0 to 2"),
        ({"point": 1}, "vary has 1 points; give 0 to 0"),
        ({"vary": {"network.hidden": [[1], [2]]}}, "changes the network's shape or is no setting"),
        ({"vary": {"activity.chance": [0.1]}}, "activity.chance"),
        ({"vary": {"activity.probability": [0.1, 2.0]}}, "vary: at .*2.0.*probability"),
        ({"importance": [1, 1]}, "a list of 2 where 6 numbers are needed"),
        ({"network": {"hidden": [0]}}, "greater than 0"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict, problem: str):
    with pytest.raises(ValidationError, match=problem):
        Config(**{**BOTTLENECK, **settings})
