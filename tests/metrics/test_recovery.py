from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae.dictionaries.relu import Relu
from sae.metric import Case, Evidence, Scores
from sae.metrics.recovery import Config
from sae.numerics.matching import cosines, one_to_one, unit
from sae.source import Batch, Truth
from sae.toys.base import random_directions


def recover(features: torch.Tensor, latents: torch.Tensor, probability: torch.Tensor | None = None) -> Scores:
    """Scores of decoder rows `latents` against true directions `features` of any length."""
    if probability is None:
        probability = torch.linspace(0.01, 0.5, len(features))
    truth = Truth(unit(features), features.norm(dim=-1) > 0, probability)
    batch = Batch(torch.zeros(2, features.shape[1]))
    return Config().score(Case(Relu.tied(latents), Evidence(batch, batch, truth)))


def draw(n: int, d_in: int, seed: int = 0) -> torch.Tensor:
    return random_directions(n, d_in, torch.Generator().manual_seed(seed))


def test_by_hand():
    features = torch.eye(2)
    latents = torch.tensor([[0.5, 0.75**0.5], [1.0, 0.0], [-1.0, 0.0], [0.0, -2.0]])
    high = 0.75**0.5  # S = [[.5, 1, -1, 0], [.866, 0, 0, -1]]
    s = recover(features, latents).scalars
    assert s["mmcs_truth"] == pytest.approx((1 + high) / 2)
    assert s["mmcs_latents"] == pytest.approx((high + 1 + 0 + 0) / 4)
    assert s["mcc"] == pytest.approx((1 + high) / 2) and s["mcc_all"] == pytest.approx((1 + high) / 4)
    assert s["recovered_80"] == 1 and s["recovered_90"] == 0.5
    assert s["uniqueness"] == 2 / 4


def test_the_truth_against_itself_is_perfect():
    features = draw(40, 12)
    s = dict(recover(features, features[torch.randperm(40)]).scalars)
    assert s.pop("n_represented") == 40 and math.isnan(s.pop("false_recovery"))
    assert all(value == pytest.approx(1, abs=1e-6) for value in s.values())


@pytest.mark.parametrize(("n_latents", "mmcs"), [(512, 0.190), (4096, 0.224)])
def test_random_directions_score_the_known_null(n_latents: int, mmcs: float):
    features, latents = draw(512, 256, seed=1), draw(n_latents, 256, seed=2)
    s = recover(features, latents).scalars
    assert s["mmcs_truth"] == pytest.approx(mmcs, abs=0.003)
    assert s["mmcs_latents"] == pytest.approx(0.190, abs=0.003)
    assert s["recovered_80"] == 0
    if n_latents == 512:
        assert s["mcc"] == pytest.approx(0.180, abs=0.003) and s["mcc"] == s["mcc_all"]
        absolute = cosines(features, latents).abs()  # SAELens' variant
        assert float(absolute[range(512), one_to_one(absolute)].mean()) == pytest.approx(0.192, abs=0.003)


def test_a_latent_that_points_away_recovers_nothing():
    s = recover(torch.eye(4), -torch.eye(4)).scalars
    assert s["mmcs_truth"] == 0 and s["mmcs_latents"] == 0 and s["mcc"] == 0 and s["recovered_80"] == 0


def test_copies_are_not_free():
    features = torch.eye(4)
    s = recover(features, features.repeat(2, 1)).scalars
    assert s["mmcs_truth"] == s["mmcs_latents"] == s["mcc"] == 1
    assert s["mcc_all"] == 0.5 and s["uniqueness"] == 0.5


def test_missing_features_are_not_free():
    found = recover(torch.eye(4), torch.eye(4)[:2])
    assert found.scalars["mcc"] == 1 and found.scalars["mcc_all"] == 0.5 and found.scalars["mmcs_truth"] == 0.5
    assert found.vectors["matched_latent"].tolist() == [0, 1, -1, -1]


def test_dead_directions_count_as_zero():
    latents = torch.cat([torch.eye(4), torch.zeros(4, 4)])
    s = recover(torch.eye(4), latents).scalars
    assert s["mmcs_latents"] == 0.5 and s["uniqueness"] == 0.5 and s["mcc"] == 1
    nothing = recover(torch.eye(10), torch.zeros(3, 10)).scalars
    counts = {"n_represented", "false_recovery"}
    assert all(value == 0 for name, value in nothing.items() if name not in counts)


def test_only_represented_features_count():
    features = torch.eye(6)
    features[[1, 4]] = 0
    found = recover(features, features[[5, 0, 2, 3]])
    assert found.scalars["mmcs_truth"] == found.scalars["mcc_all"] == found.scalars["uniqueness"] == 1
    assert found.vectors["matched_latent"].tolist() == [1, -1, 2, 3, -1, 0]
    assert found.vectors["best_cosine"].isnan().tolist() == [False, True, False, False, True, False]
    assert found.vectors["represented"].tolist() == [True, False, True, True, False, True]


def test_deciles_run_from_rare_to_frequent():
    features = torch.eye(20)
    probability = torch.rand(20, generator=torch.Generator().manual_seed(0))
    rare = probability.argsort()[:2]
    latents = features.clone()
    latents[rare] = 0
    s = recover(features, latents, probability).scalars
    assert s["mmcs_decile_1"] == 0 and all(s[f"mmcs_decile_{i}"] == 1 for i in range(2, 11))


def test_deciles_of_few_or_unknown_features():
    few = recover(torch.eye(3), torch.eye(3)).scalars
    assert few["mmcs_decile_1"] == 1 and math.isnan(few["mmcs_decile_10"])
    unknown = recover(torch.eye(3), torch.eye(3), torch.full((3,), torch.nan)).scalars
    assert not [name for name in unknown if "decile" in name] and unknown["mcc"] == 1


def test_more_latents_never_lower_mmcs_truth_but_lower_mmcs_latents():
    features, latents = draw(30, 10), draw(60, 10, seed=3)
    good = torch.cat([features, latents])
    few, many = recover(features, features).scalars, recover(features, good).scalars
    assert many["mmcs_truth"] == pytest.approx(few["mmcs_truth"])
    assert many["mmcs_latents"] < 0.9 and many["mcc_all"] == pytest.approx(1 / 3)


def test_nothing_represented_is_nan():
    found = recover(torch.zeros(2, 3), torch.eye(3))
    s = dict(found.scalars)
    assert s.pop("n_represented") == 0 and len(s) == 8 and all(math.isnan(value) for value in s.values())
    assert found.vectors["matched_latent"].tolist() == [-1, -1]


def test_the_assignment_is_not_greedy():
    assert one_to_one(torch.tensor([[0.9, 0.8], [0.85, 0.1]])).tolist() == [1, 0]


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 5), m=st.integers(1, 5), seed=st.integers(0, 10_000))
def test_the_assignment_is_the_best_of_all(n: int, m: int, seed: int):
    s = torch.randn(n, m, generator=torch.Generator().manual_seed(seed))
    partner = one_to_one(s)
    has = partner >= 0
    assert int(has.sum()) == min(n, m) == len(set(partner[has].tolist()))
    wide = s if n <= m else s.T
    rows = range(min(n, m))
    best = max(float(wide[rows, order].sum()) for order in itertools.permutations(range(max(n, m)), min(n, m)))
    assert float(s[has, partner[has]].sum()) == pytest.approx(best, abs=1e-5)


@settings(max_examples=20, deadline=None)
@given(scale=st.floats(1e-12, 1e12), seed=st.integers(0, 100))
def test_cosines_do_not_depend_on_length(scale: float, seed: int):
    features, latents = draw(4, 7, seed), draw(5, 7, seed + 1)
    torch.testing.assert_close(cosines(features, latents * scale), cosines(features, latents))


def with_ignored(directions: torch.Tensor, represented: list[bool], latents: torch.Tensor) -> dict[str, float]:
    truth = Truth(unit(directions), torch.tensor(represented), torch.full((len(directions),), 0.1))
    batch = Batch(torch.zeros(2, directions.shape[1]))
    return dict(Config().score(Case(Relu.tied(latents), Evidence(batch, batch, truth))).scalars)


def test_latents_of_ignored_features_are_false_recoveries():
    """Two features are represented, one is not. Of five latents one is on the unrepresented feature and one near it
    (cosine .95); the others are on a feature, between two (.71), and dead."""
    near = torch.tensor([(1 - 0.95**2) ** 0.5, 0, 0.95])
    latents = torch.stack([torch.tensor([0, 0, 2.0]), near, *torch.tensor([[1.0, 0, 0], [0, 1, 1], [0, 0, 0]])])
    s = with_ignored(torch.eye(3), [True, True, False], latents)
    assert s["false_recovery"] == pytest.approx(2 / 5) and s["n_represented"] == 2
    assert s["recovered_90"] == 0.5 and s["mcc_all"] == pytest.approx((1 + 0.5**0.5) / 5)


def test_a_feature_that_is_merged_with_a_represented_one_is_not_recovered_falsely():
    twins = torch.tensor([[1.0, 0], [1, 0], [0, 1]])
    assert math.isnan(with_ignored(twins, [True, False, True], torch.eye(2))["false_recovery"])
    assert with_ignored(twins, [False, False, True], torch.eye(2))["false_recovery"] == 0.5
    apart = torch.tensor([[1.0, 0], [0.9, 0.19**0.5], [0, 1]])
    assert with_ignored(apart, [True, False, True], apart)["false_recovery"] == pytest.approx(1 / 3)


def test_an_ignored_feature_without_a_direction_cannot_be_recovered():
    features = torch.eye(3)
    features[2] = 0
    assert math.isnan(with_ignored(features, [True, True, False], torch.eye(3))["false_recovery"])
    assert with_ignored(torch.eye(3), [False, False, False], torch.eye(3))["false_recovery"] == 1


def test_neither_order_nor_length_of_latents_nor_a_rotation_matters():
    features, latents = draw(20, 8), draw(30, 8, seed=5)
    g = torch.Generator().manual_seed(6)
    order, length = torch.randperm(30, generator=g), torch.rand(30, 1, generator=g) + 0.1
    rotation = torch.linalg.qr(torch.randn(8, 8, generator=g)).Q
    before = recover(features, latents).scalars
    moved = recover(features @ rotation, (length * latents)[order] @ rotation).scalars
    assert moved == pytest.approx(dict(before), abs=1e-5, nan_ok=True)
