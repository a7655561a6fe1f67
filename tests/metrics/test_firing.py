from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae.dictionaries.relu import Relu
from sae.metric import Case, Evidence, Scores
from sae.metrics.firing import Agreement, Config, Contributions
from sae.source import Batch, Truth
from sae.toys.base import random_directions


def basis(z: torch.Tensor, codes: torch.Tensor, choose: tuple[torch.Tensor, torch.Tensor] | None = None) -> Case:
    """A case in which the features are the axes, and the dictionary's codes are `z` whatever the truth is."""
    n = codes.shape[1]
    truth = Truth(torch.eye(n), torch.ones(n, dtype=torch.bool), torch.full((n,), 0.5))
    chosen = (z, codes) if choose is None else choose
    d = Relu.tied(torch.eye(n)[: z.shape[1]] if z.shape[1] <= n else torch.cat([torch.eye(n)] * 2)[: z.shape[1]])
    case = Case(d, Evidence(Batch(chosen[1], chosen[1]), Batch(codes, codes), truth))
    case.__dict__.update(choose_codes=chosen[0], test_codes=z)  # where cached_property keeps them
    return case


def score(case: Case) -> Scores:
    return Config().score(case)


def test_by_hand():
    codes = torch.tensor([[1.0, 0], [1, 0], [0, 2], [0, 0]])
    z = torch.tensor([[1.0, 0], [0, 3], [1, 3], [1, 0]])
    s = score(basis(z, codes)).scalars
    assert s["precision"] == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert s["recall"] == pytest.approx((1 / 2 + 1) / 2)
    assert s["f1"] == pytest.approx((2 / 5 + 2 / 3) / 2) == s["f1_macro"]


def test_exact_codes_are_perfect():
    codes = torch.rand(50, 4) * (torch.rand(50, 4) < 0.3)
    found = score(basis(codes, codes))
    names = ("precision", "recall", "f1", "f1_macro", "precision_chosen", "recall_chosen", "f1_chosen")
    assert all(found.scalars[name] == 1 for name in names)
    assert found.vectors["f1"].tolist() == [1, 1, 1, 1] and found.scalars["threshold"] == 0


def test_independent_firing_has_the_chance_level():
    """With rates p and q, precision is p, recall q, and F1 = 2pq / (p + q)."""
    g = torch.Generator().manual_seed(0)
    codes = (torch.rand(20_000, 8, generator=g) < 0.2).float()
    z = (torch.rand(20_000, 8, generator=g) < 0.5).float()
    s = score(basis(z, codes)).scalars
    assert s["precision"] == pytest.approx(0.2, abs=0.01) and s["recall"] == pytest.approx(0.5, abs=0.01)
    assert s["f1"] == pytest.approx(2 * 0.2 * 0.5 / 0.7, abs=0.01)


def test_a_threshold_removes_tiny_codes():
    g = torch.Generator().manual_seed(0)
    codes = (0.5 + torch.rand(400, 4, generator=g)) * (torch.rand(400, 4, generator=g) < 0.2)
    dust = 0.1 * torch.rand(400, 4, generator=g) * (codes == 0)
    s = score(basis(codes + dust, codes)).scalars
    assert s["precision"] < 0.4 and s["recall"] == 1
    assert s["f1_chosen"] > 0.97 and 0.05 < s["threshold"] < 0.6


def test_the_threshold_is_chosen_without_the_test_rows():
    g = torch.Generator().manual_seed(1)
    codes = (0.5 + torch.rand(300, 3, generator=g)) * (torch.rand(300, 3, generator=g) < 0.2)
    z = codes + 0.1 * torch.rand(300, 3, generator=g)
    clean, dusty = score(basis(codes, codes, choose=(z, codes))), score(basis(10 * z, codes, choose=(z, codes)))
    assert clean.scalars["threshold"] == dusty.scalars["threshold"] > 0
    assert dusty.scalars["f1_chosen"] < clean.scalars["f1_chosen"]


def test_the_scale_of_a_latent_does_not_count():
    g = torch.Generator().manual_seed(2)
    codes = torch.rand(300, 3, generator=g) * (torch.rand(300, 3, generator=g) < 0.3)
    z = (codes + 0.1 * torch.randn(300, 3, generator=g)).relu()
    case, factor = basis(z, codes), torch.tensor([0.125, 1.0, 16.0])
    d = case.dictionary
    scaled = Case(Relu(d.W_enc * factor, d.W_dec / factor[:, None], d.b_enc, d.b_dec), case.evidence)
    scaled.__dict__.update(choose_codes=z * factor, test_codes=z * factor)
    assert score(scaled).scalars == pytest.approx(dict(score(case).scalars), nan_ok=True)


def test_features_without_a_partner_or_with_a_silent_one_count_zero():
    codes = torch.tensor([[1.0, 1, 1], [1, 1, 1], [0, 0, 0]])
    z = torch.tensor([[1.0, 0], [1, 0], [0, 0]])
    found = score(basis(z, codes))
    assert found.vectors["f1"].tolist() == [1, 0, 0]
    assert found.scalars["f1"] == found.scalars["precision"] == found.scalars["recall"] == pytest.approx(1 / 3)
    assert found.scalars["f1_macro"] == 0.5


def test_features_that_are_never_active_are_left_out():
    codes = torch.tensor([[1.0, 0], [0, 0]])
    found = score(basis(torch.tensor([[1.0, 1], [0, 0]]), codes))
    assert found.scalars["f1"] == 1 and math.isnan(found.vectors["f1"][1])
    nothing = score(basis(torch.ones(2, 2), torch.zeros(2, 2))).scalars
    assert math.isnan(nothing["f1"]) and math.isnan(nothing["recall"]) and nothing["f1_macro"] == 0


def test_split_copies_score_in_the_macro_form_only():
    """Two latents that share one feature's rows: each has precision 1 and recall 1/2."""
    codes = torch.tensor([[1.0], [1], [0]])
    z = torch.tensor([[1.0, 0], [0, 1], [0, 0]])
    s = score(basis(z, codes)).scalars
    assert s["f1_macro"] == pytest.approx(2 / 3) == s["f1"] and s["recall"] == 0.5


def test_nothing_represented_is_nan():
    case = basis(torch.eye(3), torch.eye(3))
    assert case.evidence.truth is not None
    truth = replace(case.evidence.truth, represented=torch.zeros(3, dtype=torch.bool))
    found = score(Case(case.dictionary, replace(case.evidence, truth=truth)))
    assert math.isnan(found.scalars["f1"]) and math.isnan(found.scalars["f1_macro"])


def test_macro_form_equals_a_plain_loop():
    g = torch.Generator().manual_seed(3)
    features, latents = random_directions(7, 5, g), random_directions(12, 5, g)
    represented = torch.tensor([True] * 6 + [False])
    codes = torch.rand(80, 7, generator=g) * (torch.rand(80, 7, generator=g) < 0.4)
    evidence = Evidence(
        Batch(codes @ features, codes), Batch(codes @ features, codes), Truth(features, represented, codes.mean(0))
    )
    case = Case(Relu.tied(latents), evidence)
    total = 0.0
    for j in range(12):
        g_best = max(range(6), key=lambda i: abs(float(features[i] @ latents[j])))
        fires, active = case.test_codes[:, j] != 0, codes[:, g_best] > 0
        tp, fp, fn = int((fires & active).sum()), int((fires & ~active).sum()), int((~fires & active).sum())
        precision, recall = tp / (tp + fp) if tp + fp else 0.0, tp / (tp + fn) if tp + fn else 0.0
        total += 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    assert score(case).scalars["f1_macro"] == pytest.approx(total / 12)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), rows=st.integers(1, 20), n=st.integers(1, 4))
def test_counts_equal_plain_comparisons(seed: int, rows: int, n: int):
    g = torch.Generator().manual_seed(seed)
    strength = torch.randint(0, 5, (rows, n), generator=g).float()  # many ties with the thresholds
    active = torch.rand(rows, n, generator=g) < 0.5
    thresholds = torch.tensor([0.0, 1.0, 2.5, 3.0])
    row, feature = (strength > 0).nonzero(as_tuple=True)
    entries = Contributions(feature, strength[row, feature], active[row, feature], active.sum(0))
    found = Agreement.at(thresholds, entries)
    for t, threshold in enumerate(thresholds):
        fires = strength > threshold
        assert torch.equal(found.fires[t], fires.sum(0)) and torch.equal(found.hits[t], (fires & active).sum(0))
    assert torch.equal(found.positives, active.sum(0))


def test_deciles_run_from_rare_to_frequent_and_leave_out_what_is_never_active():
    """Twenty features of different frequencies; the latents of the rarest two fire in other samples."""
    codes = torch.zeros(400, 20)
    for g in range(20):
        codes[: 3 * g + 3, g] = 1
    z = codes.clone()
    z[:, :2] = codes[:, :2].flip(0)
    case = basis(z, codes)
    assert case.evidence.truth is not None

    def deciles(codes: torch.Tensor, probability: torch.Tensor) -> dict[str, float]:
        evidence = Evidence(
            Batch(codes, codes), Batch(codes, codes), replace(case.evidence.truth, probability=probability)
        )
        other = Case(case.dictionary, evidence)
        other.__dict__.update(choose_codes=z, test_codes=z)
        return {name: value for name, value in score(other).scalars.items() if "decile" in name}

    s = deciles(codes, codes.mean(0))
    assert list(s) == [f"f1_decile_{i}" for i in range(1, 11)]
    assert list(s.values()) == [0] + [1] * 9
    never = codes.clone()
    never[:, 0] = 0
    assert deciles(never, codes.mean(0))["f1_decile_1"] == 0, "of the one that is active"
    assert deciles(codes, torch.full((20,), torch.nan)) == {}
    assert list(deciles(codes, codes.mean(0).flip(0)).values()) == [1] * 9 + [0]
