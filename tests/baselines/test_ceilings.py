"""Ceilings that are given the truth: a probe per feature, and the true directions with a one-layer encoder."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipelines.report.findings import judge, sentences
from pipelines.report.settings_table import ScoredRow, settings_of
from sae.baselines import oracle, supervised
from sae.metric import Case, gather_evidence
from sae.metrics.firing import Config as Firing
from sae.source import TensorSource
from sae.sources.features import Config as Features
from sae.sources.independent import Config as Independent

SOURCE = Independent(n_features=30, d_in=24, probability=0.05, values="uniform").build()


def strong() -> Features:
    """As many features as dimensions, never weak: for each feature one hyperplane separates its samples exactly."""
    return Features(
        n_features=8,
        d_in=8,
        activity={"kind": "independent", "probability": {"kind": "constant", "value": 0.2}},
        values={"kind": "uniform", "low": 0.5, "high": 1.5},
        directions={"kind": "random"},
    )


def f1(d, source) -> float:
    return Firing().score(Case(d, gather_evidence(source, 4000))).scalars["f1"]


def test_separable_features_are_told_apart_without_a_mistake():
    source = strong().build()
    d = supervised.Config(n_samples=4000, l2=1e-4, n_iterations=200).fit(source, 0)
    assert f1(d, source) > 0.999
    batch = source.batch(5, 1000, "test")
    assert float((d.encode(batch.acts) - batch.codes).abs().mean()) < 0.1, "codes are in units of the true ones"


def test_the_probes_are_those_of_logistic_regression():
    from sklearn.linear_model import LogisticRegression

    batch = SOURCE.batch(0, 2000)
    active = batch.codes > 0
    probes = supervised.logistic_columns(batch.acts, active, 1.0, 500)
    for g in (0, 7, 19):
        theirs = LogisticRegression(C=1.0, tol=1e-8, max_iter=5000).fit(batch.acts.numpy(), active[:, g].numpy())
        np.testing.assert_allclose(probes.W[:, g].numpy(), theirs.coef_[0], rtol=2e-2, atol=2e-2)
        assert float(probes.b[g]) == pytest.approx(float(theirs.intercept_[0]), abs=2e-2)


def test_a_latent_fires_exactly_where_its_probe_finds_its_feature_more_likely_than_not():
    batch = SOURCE.batch(0, 3000)
    x, mean = batch.acts, batch.acts.mean(0)
    probes = supervised.logistic_columns((x - mean) @ supervised.whitening(x - mean), batch.codes > 0, 1.0, 50)
    odds = (x - mean) @ supervised.whitening(x - mean) @ probes.W + probes.b
    d = supervised.Config(n_samples=3000).fit(SOURCE, 0)
    assert float(((d.encode(x) > 0) != (odds > 0)).float().mean()) < 1e-4
    assert torch.equal(d.W_dec, SOURCE.truth.directions)


def test_a_feature_that_never_fires_has_a_latent_that_never_does():
    codes = torch.tensor([[0.0], [1.0]])
    assert torch.equal(supervised.least_squares_scale(torch.tensor([[-1.0], [-2.0]]), codes), torch.ones(1))
    probes = supervised.logistic_columns(torch.randn(500, 3), torch.zeros(500, 2, dtype=torch.bool), 1.0, 50)
    assert float(probes.W.abs().max()) < 0.01 and float(probes.b.max()) < -5


@pytest.mark.usefixtures("shapes_unchecked")
def test_the_oracle_in_one_layer_is_the_threshold_encoder_on_the_true_directions():
    source = Independent(n_features=8, d_in=6, probability=0.1, values="uniform").build()
    small = {"n_iterations": 20}
    d = oracle.Config(encoder="threshold", **small).fit(source, 0)
    other = oracle.Config(encoder="relu").fit(source, 0).with_encoder("threshold", source, layer="learned", **small)
    assert d.kind == "threshold" and torch.equal(d.W_dec, source.truth.directions)
    assert torch.equal(d.W_enc, other.W_enc) and torch.equal(d.threshold, other.threshold)
    iterative, relu = (f1(oracle.Config(encoder=e).fit(source, 0), source) for e in ("fista", "relu"))
    assert relu < f1(d, source) < iterative


def test_a_ceiling_is_never_the_best_nor_the_best_baseline():
    identity = {"source": "s", "encoder": None, "n_latents": 8, "l1": None, "target_l0": None, "seed": 0}
    score = {"supervised": 0.97, "oracle encoder=threshold": 0.98, "ksvd": 0.5, "relu": 0.7}
    settings = settings_of([ScoredRow({**identity, "method": m}, {"f1": value}) for m, value in score.items()])
    verdict = judge(settings, "f1")
    assert verdict is not None and verdict.best.kind == "relu"
    assert verdict.baseline is not None and verdict.baseline.kind == "ksvd"
    assert [s.is_ceiling("f1") for s in settings] == [True, True, False, False]
    without = judge([s for s in settings if s.kind != "oracle"], "f1")
    assert "The ceiling supervised, which is given the true directions, reaches 0.970." in sentences(settings, without)


def test_probes_need_the_truth():
    assert supervised.Config().needs == {"truth", "codes"}
    with pytest.raises(AssertionError):
        supervised.Config().fit(TensorSource(torch.randn(50, 4)), 0)
