"""The training cost is counted the same way for every method, and stays with the dictionary."""

from __future__ import annotations

import math

import pytest
import torch

import sae
from sae.baselines import ica, kmeans, ksvd, pca, random
from sae.dictionaries.relu import Relu
from sae.metric import Case, Evidence
from sae.metrics.cost import Config as Cost
from sae.numerics.fit_cost import FitCost, eigenvectors
from sae.numerics.sparse_coding import lasso_multiply_adds
from sae.source import Batch, TensorSource
from sae.sources.independent import Config as Independent

SOURCE = Independent(n_features=12, d_in=8, probability=0.1).build()
FAST = {"steps": 40, "batch_size": 32, "log_every": 40, "n_scale": 64}


def costs(d: sae.Dictionary) -> dict[str, float]:
    rows = Batch(torch.zeros(2, d.d_in))
    return dict(Cost().score(Case(d, Evidence(rows, rows))).scalars)


def test_training_costs_five_products_a_sample():
    (d,) = sae.fit(SOURCE, n_latents=16, l1=0.5, **FAST)
    assert FitCost.of(d.card) == (40 * 32, 40 * 32, 5 * 8 * 16 * 40 * 32)
    (d,) = sae.fit(SOURCE, "matching_pursuit", n_latents=16, k=3, **FAST)
    assert FitCost.of(d.card) == (40 * 32, 40 * 32, 3 * 8 * 16 * 40 * 32)


def test_a_finite_source_has_no_more_rows_than_it_has():
    (d,) = sae.fit(torch.randn(500, 8), n_latents=16, l1=0.5, **FAST)
    assert FitCost.of(d.card) == (400, 40 * 32, 5 * 8 * 16 * 40 * 32)  # a fifth is held out


def test_what_is_known_in_closed_form():
    assert FitCost.of(random.Config(n_latents=9).fit(SOURCE, 0).card) == (0, 0, 0)
    assert FitCost.of(pca.Config(n_samples=100).fit(SOURCE, 0).card) == (100, 100, 100 * 64 + eigenvectors(8))
    d = ksvd.Config(n_latents=9, k=2, n_samples=100, n_iterations=3).fit(SOURCE, 0)
    pursued = 8 * 9 + 2 * 9 * 9 + 5 * 8 + 2  # correlations; a Gram product a step; squares of 1 and 2 chosen, solved
    assert FitCost.of(d.card) == (100, 300, 300 * (pursued + 2 * (2 * ksvd.POWER_ITERATIONS + 2) * 8))


@pytest.mark.parametrize("method", [ica.Config(), kmeans.Config(n_latents=9)], ids=["ica", "kmeans"])
def test_the_iterations_that_were_made_are_those_that_count(method):
    """Not those that were allowed: a hundred times as many change nothing once it has converged."""
    few, many = (
        method.model_copy(update={"n_samples": 500, name: n}).fit(SOURCE, 0)
        for name in ("max_iterations" if method.kind == "ica" else "n_iterations",)
        for n in (200, 20_000)
    )
    assert few.card["converged"] and few.card["spent"] == many.card["spent"]
    assert few.card["spent"]["samples"] == 500 * (1 + few.card["iterations"])


def test_refinement_and_encoders_add_their_own():
    (d,) = sae.fit(SOURCE, n_latents=16, l1=0.5, **FAST)
    before = FitCost.of(d.card)
    refined = sae.refine(d, SOURCE, steps=3, batch_size=50)
    after = FitCost.of(refined.card)
    n, active = 150, refined.settings()["mean_support"]
    fits = 2 * 3 * (2 * active * 8 + (2 * active) ** 2 * 8 + (2 * active) ** 3)
    added = 150 * (3 * 16 * 8 + round(fits + 2 * 11 * active * 8))
    assert after == (before.rows + n, before.samples + n, before.multiply_adds + added)
    assert FitCost.of(d.with_encoder("omp", SOURCE).card) == before, "the directions say it all"
    read = d.with_encoder("threshold", SOURCE, n_rows=1000, layer="learned", steps=10, batch_size=20, n_iterations=5)
    spent = FitCost.of(read.card)
    assert spent.rows == before.rows + 4096 + 1000 and spent.samples == before.samples + 4096 + 1000 + 200
    assert spent.multiply_adds > before.multiply_adds + 1000 * 2 * lasso_multiply_adds(d.W_dec, 5)


def test_rows_that_are_seen_again_are_not_new_rows():
    x = TensorSource(torch.randn(500, 8))
    (d,) = sae.fit(x, n_latents=16, l1=0.5, **FAST)
    assert FitCost.of(sae.refine(d, x, steps=2, batch_size=64).card).rows == 400


def test_the_scores_are_what_the_card_says_and_unknown_where_it_says_nothing(tmp_path):
    (d,) = sae.fit(SOURCE, n_latents=16, l1=0.5, **FAST)
    sae.save(d, tmp_path)
    found = costs(sae.load(tmp_path))
    assert (found["train_rows"], found["train_samples"]) == (1280, 1280)
    assert found["train_flops"] == 2 * 5 * 8 * 16 * 1280
    foreign = costs(Relu.tied(torch.eye(4)))
    assert all(math.isnan(foreign[name]) for name in ("train_rows", "train_samples", "train_flops"))
    assert costs(Relu.tied(torch.eye(4)).with_encoder("omp", k=2))["encoder_cost"] > 1
