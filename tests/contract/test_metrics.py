"""Rules that every metric obeys, save `downstream`, which needs a model."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from pipelines.report.scores import score_of
from sae.dictionaries.relu import Relu
from sae.metric import Case, Evidence, MetricConfig, Scores, gather_evidence
from sae.registry import configurable
from sae.source import Batch, Truth
from sae.sources.features import Config as Features
from sae.sources.independent import Config as Independent
from sae.toys.base import random_directions

KINDS = sorted(set(configurable("metrics")) - {"downstream"})
DEPENDS_ON_AXES = frozenset({"logistic", "neuron", "dimension", "overcomplete"})
"""Probes on single or standardised coordinates, and averages over dimensions, which a rotation changes."""
DEPENDS_ON_SCALE = frozenset({"norm"})
"""The sum of the codes, which is in their units."""
D_IN = 16

SPENT = {"spent": {"rows": 300, "samples": 900, "multiply_adds": 10**6}}


@pytest.fixture(params=KINDS)
def metric(request: pytest.FixtureRequest) -> MetricConfig:
    return configurable("metrics")[request.param].Config()


def completed(evidence: Evidence) -> Evidence:
    """The same with what else a metric may need: the last features are children of the first (without gating), and
    the first two and the next two span the plane of a feature each."""
    assert evidence.truth is not None
    directions, n = evidence.truth.directions, len(evidence.truth.directions)
    parents = torch.where(torch.arange(n) < n - 4, -1, torch.arange(n) % 2)
    planes = torch.stack([torch.linalg.qr(pair.T).Q.T for pair in (directions[:2], directions[2:4])])
    return replace(evidence, truth=replace(evidence.truth, parents=parents), subspaces=planes)


def drawn() -> tuple[Relu, Evidence]:
    """Twenty noisy latents of 14 features, of which the last four are children of the first two; one is ignored, one of
    the children has no latent."""
    parents, probability = [-1] * 10 + [0, 1, 0, 1], [0.3] * 2 + [0.15] * 12
    activity = {"kind": "tree", "parents": parents, "probability": probability}
    source = Features(n_features=14, d_in=D_IN, activity=activity, noise=0.02, seed=5).build()  # pyright: ignore
    g = torch.Generator().manual_seed(0)
    assert source.truth is not None
    own = source.truth.directions[torch.arange(14) != 11]
    rows = own.repeat(2, 1)[:20] + 0.08 * torch.randn(20, D_IN, generator=g)
    d = Relu(rows.T.contiguous(), rows, -0.1 * torch.rand(20, generator=g), torch.zeros(D_IN)).with_card(**SPENT)
    evidence = completed(gather_evidence(source, 2000))
    assert evidence.truth is not None
    represented = torch.arange(14) != 9
    return d, replace(evidence, truth=replace(evidence.truth, represented=represented))


def compare(before: Scores, after: Scores, without: frozenset[str] = frozenset()) -> None:
    assert set(before.scalars) == set(after.scalars) and before.scalars
    assert all(math.isfinite(value) for value in before.scalars.values())
    for name, value in before.scalars.items():
        if name.rpartition("_")[2] not in without:
            assert after.scalars[name] == pytest.approx(value, abs=2e-3), name


def move(batch: Batch, rows: Tensor, rotation: Tensor) -> Batch:
    assert batch.codes is not None
    return Batch(batch.acts[rows] @ rotation, batch.codes[rows])


def test_named_by_the_file_and_frozen(metric: MetricConfig):
    assert metric.kind in KINDS and hash(metric) == hash(type(metric)())


def test_scores_are_finite_and_vectors_have_an_entry_each(metric: MetricConfig):
    d, evidence = drawn()
    found = metric.score(Case(d, evidence))
    assert all(isinstance(value, float) and math.isfinite(value) for value in found.scalars.values())
    assert all(len(vector) in (2, 14, 20) for vector in found.vectors.values())


def test_every_score_has_a_meaning_in_reports(metric: MetricConfig):
    assert not [name for name in metric.score(Case(*drawn())).scalars if score_of(name) is None]


def test_scoring_twice_gives_the_same(metric: MetricConfig):
    d, evidence = drawn()
    assert metric.score(Case(d, evidence)).scalars == metric.score(Case(d, evidence)).scalars


def test_float64_gives_the_same(metric: MetricConfig):
    d, evidence = drawn()
    assert evidence.truth is not None and evidence.subspaces is not None
    double = torch.float64
    choose, test = (Batch(b.acts.double(), b.codes) for b in (evidence.choose, evidence.test))
    truth = replace(evidence.truth, directions=evidence.truth.directions.to(double))
    other = Evidence(choose, test, truth, subspaces=evidence.subspaces)
    compare(metric.score(Case(d, evidence)), metric.score(Case(d.to(dtype=double), other)), frozenset({"shuffled"}))


def test_the_order_of_latents_does_not_matter(metric: MetricConfig):
    d, evidence = drawn()
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    shuffled = Relu(d.W_enc[:, order], d.W_dec[order], d.b_enc[order], d.b_dec, card=d.card)
    compare(metric.score(Case(d, evidence)), metric.score(Case(shuffled, evidence)))


def test_the_scale_of_a_latent_does_not_matter(metric: MetricConfig):
    """Codes times a factor, decoder rows divided by it: the same dictionary in other units."""
    d, evidence = drawn()
    factor = 2.0 ** torch.arange(-10, 10)
    scaled = Relu(d.W_enc * factor, d.W_dec / factor[:, None], d.b_enc * factor, d.b_dec, card=d.card)
    compare(metric.score(Case(d, evidence)), metric.score(Case(scaled, evidence)), DEPENDS_ON_SCALE)


def test_the_order_of_rows_does_not_matter(metric: MetricConfig):
    d, evidence = drawn()
    g, still = torch.Generator().manual_seed(2), torch.eye(D_IN)
    choose, test = (move(b, torch.randperm(1000, generator=g), still) for b in (evidence.choose, evidence.test))
    other = replace(evidence, choose=choose, test=test)
    compare(metric.score(Case(d, evidence)), metric.score(Case(d, other)), without=frozenset({"shuffled"}))


def test_rotating_the_space_does_not_matter(metric: MetricConfig):
    d, evidence = drawn()
    assert evidence.truth is not None
    rotation = torch.linalg.qr(torch.randn(D_IN, D_IN, generator=torch.Generator().manual_seed(3))).Q
    turned = Relu(rotation.T @ d.W_enc, d.W_dec @ rotation, d.b_enc, d.b_dec, card=d.card)
    choose, test = (move(b, torch.arange(1000), rotation) for b in (evidence.choose, evidence.test))
    assert evidence.subspaces is not None
    truth = replace(evidence.truth, directions=evidence.truth.directions @ rotation)
    other = Evidence(choose, test, truth, subspaces=evidence.subspaces @ rotation)
    without = DEPENDS_ON_AXES | {"shuffled"}
    compare(metric.score(Case(d, evidence)), metric.score(Case(turned, other)), without)


def test_truth_before_itself_is_perfect(metric: MetricConfig):
    """Orthonormal features without noise, read by their own directions: every score is at its best."""
    g = torch.Generator().manual_seed(4)
    directions = torch.linalg.qr(torch.randn(12, 12, generator=g)).Q
    codes = (0.5 + torch.rand(2, 900, 12, generator=g)) * (torch.rand(2, 900, 12, generator=g) < 0.08)
    truth = Truth(directions, torch.ones(12, dtype=torch.bool), codes[0].gt(0).float().mean(0))
    choose, test = (Batch(c @ directions, c) for c in codes)
    d = replace(Relu.tied(directions), b_enc=torch.full((12,), -1e-5))  # float32 leaves dust of about 1e-7
    s = metric.score(Case(d, completed(Evidence(choose, test, truth)))).scalars
    worst_of = {
        "dead": 0,
        "dense": 0,
        "fvu": 0,
        "fvu_median": 0,
        "threshold": 0,
        "child_in_parent": 0,
        "parent_in_child": 0,
    }
    worst_of |= {"absorption_full": 0, "absorption_fraction": 0, "decoder_cosine": 0}
    worst_of |= {"inert": 0, "causal_stray": 0, "split_features": 0, "composed_latents": 0, "homeless": 0}
    worst_of |= {"nmse_openai": 0, "dead_under_10": 0}
    worst_of |= {f"fvu_active_{k}": 0 for k in (1, 2)} | {"latents_per_subspace": 2}
    at_chance = {name for name in s if name.endswith(("shuffled", "_neuron"))}
    undefined = {"false_recovery", "fvu_active_3", "fvu_active_4"}  # nothing is ignored; few rows have as many active
    undefined |= {"hedged"}  # no feature is without a latent
    undefined |= {"train_rows", "train_samples", "train_flops"}  # it came from nowhere
    not_a_grade = {
        "l0",
        "true_l0",
        "l0_positive",
        "l1_norm",
        "outlier_variance",
        "n_represented",
        "probe_f1_nearest",
        "coverage_chance",
    }
    not_a_grade |= at_chance | undefined
    assert all(math.isnan(s[name]) for name in undefined & set(s))
    for name in set(s) - not_a_grade:
        assert s[name] == pytest.approx(worst_of.get(name, 1), abs=0.02), name
    if "l0" in s:
        assert s["l0"] == pytest.approx(s["true_l0"], abs=1e-9)


def test_random_directions_are_far_from_the_truth(metric: MetricConfig):
    """The null that every family must show: better than nothing, and nowhere near a perfect score."""
    source = Independent(n_features=64, d_in=32, probability=0.05, seed=1).build()
    evidence = completed(gather_evidence(source, 3000))
    d = Relu.tied(random_directions(64, 32, torch.Generator().manual_seed(0)))
    s = metric.score(Case(d, evidence)).scalars
    bounds = {"explained_variance": (-1, 0.3), "mcc": (0.3, 0.5), "mmcs_truth": (0.3, 0.5), "recovered_80": (0, 0.05)}
    bounds |= {"f1": (0.02, 0.2), "f1_macro": (0.02, 0.25), "probe_auc_latent": (0.55, 0.85), "encoder_cost": (1, 1)}
    bounds |= {"code_mcc": (0.15, 0.5), "coefficient_r2": (0.02, 0.25)}
    bounds |= {"parents_found": (0, 0.75), "decoder_cosine": (0.13, 0.15), "latents_per_subspace": (0, 1)}
    bounds |= {"support_agreement": (0.3, 0.7), "support_truth": (0.02, 0.2)}
    bounds |= {"composed_latents": (0, 0), "homeless": (0.7, 1), "coverage": (0.1, 0.4), "mcc_absolute": (0.35, 0.5)}
    undefined = {"causal_share", "inert", "causal_stray"}  # nothing is recovered
    shown = (set(bounds) | undefined) & set(s)
    assert shown and all(math.isnan(s[name]) for name in undefined & shown)
    assert all(bounds[name][0] <= s[name] <= bounds[name][1] for name in shown - undefined), s
