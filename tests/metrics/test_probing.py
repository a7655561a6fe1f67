from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae.dictionaries.relu import Relu
from sae.metric import Case, Evidence, gather_evidence
from sae.metrics._properties import Properties, properties_of
from sae.metrics.probing import Config, Sample, nearest_share, on_activations, probe_spread
from sae.numerics.binary_probes import best_threshold, f1_score, mean_difference, rank_auc, ranks
from sae.source import Batch
from sae.sources.independent import Config as Independent

SOURCE = Independent(n_features=12, d_in=8, probability=0.15, values="constant", noise=0.05).build()


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    return gather_evidence(SOURCE, 3000)


def truth_dictionary() -> Relu:
    assert SOURCE.truth is not None
    return Relu.tied(SOURCE.truth.directions)


def labelled(x: torch.Tensor, test_x: torch.Tensor, y: torch.Tensor, test_y: torch.Tensor) -> Evidence:
    choose, test = Batch(x, labels={"y": y}), Batch(test_x, labels={"y": test_y})
    return Evidence(choose, test, labelled=(choose, test))


# Plain functions


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), rows=st.integers(2, 40), sparse=st.booleans(), signed=st.booleans())
def test_auc_equals_scikit_learns(seed: int, rows: int, sparse: bool, signed: bool):
    from sklearn.metrics import roc_auc_score

    g = torch.Generator().manual_seed(seed)
    scores = torch.randint(-2 if signed else 0, 4, (rows, 5), generator=g).float()  # many ties
    if sparse:
        scores *= torch.rand(rows, 5, generator=g) < 0.3
    positive = torch.rand(rows, 3, generator=g) < 0.5
    positive[0], positive[1] = True, False
    expected = [[roc_auc_score(positive[:, t], scores[:, c]) for c in range(5)] for t in range(3)]
    np.testing.assert_allclose(rank_auc(scores, positive).numpy(), expected, atol=1e-12)


def test_ranks_equal_scipys():
    from scipy.stats import rankdata

    scores = torch.randn(30, 4).relu() - torch.tensor([0.0, 0.5, 0.0, 0.0])
    scores[:, 3] = 0
    np.testing.assert_array_equal(ranks(scores).numpy(), rankdata(scores.numpy(), axis=0))


def test_auc_over_more_columns_than_go_at_once():
    scores, positive = torch.randn(20, 2100), torch.arange(20)[:, None] < 7
    one_by_one = torch.cat([rank_auc(column[:, None], positive) for column in scores.T], dim=1)
    assert torch.equal(rank_auc(scores, positive), one_by_one)


def test_auc_without_a_class_is_nan():
    assert math.isnan(rank_auc(torch.randn(4, 1), torch.ones(4, 1, dtype=torch.bool)))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), rows=st.integers(1, 30))
def test_the_threshold_is_the_best_of_all(seed: int, rows: int):
    g = torch.Generator().manual_seed(seed)
    scores, positive = torch.randint(-3, 3, (rows,), generator=g).float(), torch.rand(rows, generator=g) < 0.4
    best = max(f1_score(scores >= t, positive) for t in scores)
    assert f1_score(scores >= best_threshold(scores, positive), positive) == pytest.approx(best)


def test_mean_difference_is_the_difference_of_means():
    x, positive = torch.randn(50, 3, dtype=torch.float64) + 7, torch.rand(50, 2) < 0.3
    expected = torch.stack([x[p].mean(0) - x[~p].mean(0) for p in positive.T])
    torch.testing.assert_close(mean_difference(x, positive), expected)


# The metric


def test_true_latents_reach_what_the_activations_allow(evidence: Evidence):
    s = Config().score(Case(truth_dictionary(), evidence)).scalars
    assert s["probe_auc_logistic"] > 0.95 and s["probe_auc_diff_means"] > 0.9
    assert s["probe_auc_latent"] > 0.9 and s["probe_auc_k1"] > 0.9 and s["probe_f1_latent"] > 0.6
    assert s["probe_auc_k5"] > s["probe_auc_k1"] and s["probe_auc_neuron"] < s["probe_auc_latent"]
    spread = s.pop("latents_per_feature")
    assert 1 <= spread < 4 and s["probe_auc_nearest"] > 0.7  # interference makes other latents fire too
    assert all(0 <= value <= 1 for value in s.values()) and len(s) == 18


def test_permuted_labels_are_at_chance(evidence: Evidence):
    runs = [on_activations(evidence, Config(seed=seed))[1]["probe_auc_shuffled"] for seed in range(8)]
    assert np.mean(runs) == pytest.approx(0.5, abs=0.05)


def test_labels_that_mean_nothing_are_at_chance_on_test():
    """With as many dimensions as samples every probe fits the validation split perfectly, and none the test split."""
    g = torch.Generator().manual_seed(0)
    x, test_x = torch.randn(60, 60, generator=g), torch.randn(1000, 60, generator=g)
    y, test_y = (torch.rand(n, generator=g) < 0.5 for n in (60, 1000))
    s = Config().score(Case(Relu.tied(torch.eye(60)), labelled(x, test_x, y, test_y))).scalars
    aucs = [value for name, value in s.items() if "auc" in name]
    assert len(aucs) == 9 and all(abs(auc - 0.5) < 0.08 for auc in aucs)


def test_nothing_is_selected_on_the_test_samples():
    """A latent that predicts the test labels but not the validation labels is not selected."""
    g = torch.Generator().manual_seed(0)
    x, test_x = torch.rand(400, 4, generator=g), torch.rand(400, 4, generator=g)
    y, test_y = x[:, 0] > 0.5, test_x[:, 1] > 0.5
    s = Config(k=(1,)).score(Case(Relu.tied(torch.eye(4)), labelled(x, test_x, y, test_y))).scalars
    assert all(s[f"probe_auc_{probe}"] < 0.65 for probe in ("logistic", "diff_means", "neuron", "latent", "k1"))


def test_a_neuron_may_predict_with_a_negative_sign_and_a_latent_may_not():
    g = torch.Generator().manual_seed(0)
    x = torch.rand(600, 2, generator=g)
    y = x[:, 0] < 0.3
    evidence = labelled(x[:300], x[300:], y[:300], y[300:])
    s = Config(k=(1,)).score(Case(Relu.tied(torch.eye(2)), evidence)).scalars
    assert s["probe_auc_neuron"] == 1 and s["probe_f1_neuron"] > 0.97
    assert s["probe_auc_latent"] < 0.6 and s["probe_auc_k1"] == 1  # logistic regression can flip the sign


def test_all_zero_codes_are_at_chance(evidence: Evidence):
    silent = replace(truth_dictionary(), b_enc=torch.full((12,), -100.0))
    s = Config().score(Case(silent, evidence)).scalars
    assert s["probe_auc_latent"] == s["probe_auc_k1"] == s["probe_auc_k16"] == 0.5


def test_the_scale_of_a_latent_does_not_count(evidence: Evidence):
    d, factor = truth_dictionary(), 2.0 ** torch.arange(-6, 6)
    scaled = Relu(d.W_enc * factor, d.W_dec / factor[:, None], d.b_enc, d.b_dec)
    before, after = (Config().score(Case(each, evidence)).scalars for each in (d, scaled))
    assert after == pytest.approx(dict(before), abs=1e-4)


def test_probes_on_the_activations_are_fitted_once_for_all_dictionaries(
    evidence: Evidence, monkeypatch: pytest.MonkeyPatch
):
    fits: list[int] = []
    monkeypatch.setattr("sae.metrics.probing.nearest_share", lambda *given: fits.append(1) or nearest_share(*given))
    for seed in range(3):
        g = torch.Generator().manual_seed(seed)
        Config(n_tasks=2).score(Case(Relu.tied(torch.randn(5, 8, generator=g)), evidence))
    assert len(fits) == 1


def test_tasks_are_spread_over_frequencies():
    source = Independent(n_features=40, d_in=8, probability=0.05, frequencies="zipf").build()
    evidence = gather_evidence(source, 4000)
    tasks = properties_of(evidence, 6, 10)
    counts = tasks.on_choose.sum(0)
    assert len(tasks) == 6 and torch.equal(counts, counts.sort().values)
    assert counts[0] < 30 and counts[-1] == (evidence.choose.codes > 0).sum(0).max()


def test_unrepresented_features_are_no_tasks(evidence: Evidence):
    assert evidence.truth is not None
    some = replace(evidence.truth, represented=torch.arange(12) < 5)
    assert len(properties_of(replace(evidence, truth=some), 32, 10)) == 5
    assert len(properties_of(replace(evidence, truth=None), 32, 10)) == 12


def test_labels_become_tasks():
    x = torch.randn(90, 3)
    classes, binary, rare = torch.arange(90) % 3, (torch.arange(90) % 2).bool(), (torch.arange(90) == 4).long()
    batch = Batch(x, labels={"classes": classes, "binary": binary, "rare": rare})
    tasks = properties_of(Evidence(batch, batch, labelled=(batch, batch)), 32, 10)
    expected = torch.stack([classes == 0, classes == 1, classes == 2, binary], dim=1)
    assert torch.equal(tasks.on_choose, expected) and torch.equal(tasks.on_test, expected)


def test_without_a_usable_task_all_is_nan():
    x = torch.randn(50, 3)
    y = (torch.arange(50) < 9).long()
    s = Config().score(Case(Relu.tied(torch.eye(3)), labelled(x, x, y, y))).scalars
    assert len(s) == 19 and all(math.isnan(value) for value in s.values())


def test_labelled_rows_of_their_own_are_encoded():
    g = torch.Generator().manual_seed(0)
    x = torch.rand(400, 2, generator=g)
    y = (x[:, 1] > 0.6).long()
    own = Batch(x[:200], labels={"y": y[:200]}), Batch(x[200:], labels={"y": y[200:]})
    other = Batch(torch.zeros(10, 2))
    s = Config(k=(1,)).score(Case(Relu.tied(torch.eye(2)), Evidence(other, other, labelled=own))).scalars
    assert s["probe_auc_latent"] == 1


def test_a_sample_keeps_the_rare_class_and_restores_the_shares():
    positive = torch.zeros(5000, 1, dtype=torch.bool)
    positive[::100] = True
    batch = Batch(torch.zeros(5000, 1), labels={"y": positive[:, 0]})
    config = Config(max_rows=400)
    tasks = properties_of(Evidence(batch, batch, labelled=(batch, batch)), config.n_tasks, config.min_count)
    sample = Sample.of(config, tasks, 0)
    assert len(sample.rows) == 400 == len(set(sample.rows.tolist())) and sample.positive.sum() == 50
    assert sample.weight.sum() == pytest.approx(5000) and sample.weight[sample.positive].sum() == pytest.approx(50)
    assert sorted(sample.shuffled().positive) == sorted(sample.positive)
    again, other = Sample.of(config, tasks, 0), Sample.of(Config(max_rows=400, seed=1), tasks, 0)
    assert np.array_equal(sample.rows, again.rows) and not np.array_equal(sample.rows, other.rows)


def test_a_capped_fit_comes_close_to_the_full_one(evidence: Evidence):
    full, capped = (on_activations(evidence, Config(max_rows=rows))[1] for rows in (10_000, 700))
    assert capped["probe_auc_logistic"] == pytest.approx(full["probe_auc_logistic"], abs=0.01)
    assert capped["probe_f1_logistic"] == pytest.approx(full["probe_f1_logistic"], abs=0.03)


def test_neighbours_predict_what_no_linear_probe_can():
    """Inside or outside a ring: chance for a linear probe, easy for nearest neighbours."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 2, generator=g)
    y = (x.norm(dim=1) > 1.2).long()
    s = Config(k=(1,)).score(Case(Relu.tied(torch.eye(2)), labelled(x[:1000], x[1000:], y[:1000], y[1000:]))).scalars
    assert s["probe_auc_nearest"] > 0.98 and s["probe_f1_nearest"] > 0.9 and abs(s["probe_auc_logistic"] - 0.5) < 0.1


def test_the_share_of_neighbours_by_hand():
    x = torch.tensor([[0.0], [1], [2], [10], [11], [12]])
    positive = torch.tensor([[0], [0], [1], [1], [1], [0]], dtype=torch.bool)
    choose, test = Batch(x), Batch(torch.tensor([[0.9], [11.1]]))
    tasks = Properties(choose, test, positive, torch.zeros(2, 1, dtype=torch.bool))
    found = nearest_share(Config(neighbours=3), tasks, choose.acts, test.acts)
    torch.testing.assert_close(found, torch.tensor([[1 / 3], [2 / 3]]))


def test_the_spread_of_a_property_by_hand():
    difference = torch.tensor([[1.0, 0, -3], [1, 1, -1], [2, 1, 0], [-1, 0, -2]])
    found = probe_spread(difference)
    torch.testing.assert_close(found[:3], torch.tensor([1, 2, 25 / 17]).double())
    assert math.isnan(found[3])


def test_a_property_that_several_latents_share_is_spread_over_them():
    """One of four values of one attribute, written as eight combinations: a latent for each is two for each value."""
    combination = torch.arange(800) % 8
    x, y = torch.nn.functional.one_hot(combination).float(), combination % 4
    s = Config(k=(1, 2)).score(Case(Relu.tied(torch.eye(8)), labelled(x[:400], x[400:], y[:400], y[400:]))).scalars
    assert s["latents_per_feature"] == pytest.approx(2)
    assert s["probe_auc_latent"] == pytest.approx(0.75) and s["probe_auc_k2"] == pytest.approx(1)
