"""Absorption by hand: four orthonormal features, of which the second is a child of the first."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from sae.dictionaries.relu import Relu
from sae.metric import Case, Evidence, Scores
from sae.metrics.absorption import ABSORPTION_SCORES, RATES, Config
from sae.source import Batch, Truth
from sae.toys.base import random_directions

N, D_IN = 4, 6
F = torch.eye(N, D_IN)
PARENTS = torch.tensor([-1, 0, -1, -1])
# Of 10 samples the parent is active in 5, in 2 of them with its child; the others are active now and then.
CODES = torch.zeros(10, N)
CODES[:5, 0], CODES[3:5, 1], CODES[::3, 2], CODES[5:8, 3] = 1, 1, 1, 1


def evidence(codes: torch.Tensor = CODES, parents: torch.Tensor = PARENTS, f: torch.Tensor = F) -> Evidence:
    batch = Batch(codes @ f, codes)
    return Evidence(
        batch, batch, Truth(f, torch.ones(len(f), dtype=torch.bool), codes.gt(0).float().mean(0), parents=parents)
    )


def score(d: Relu, e: Evidence | None = None) -> Scores:
    return Config().score(Case(d, e or evidence()))


def absorbing() -> Relu:
    """Latent 0 encodes f0 where f1 is absent; latent 1 encodes f1 and decodes to f0 + f1."""
    W_enc, W_dec = F.T.clone(), F.clone()
    W_enc[:, 0] = F[0] - F[1]
    W_dec[1] = F[0] + F[1]
    return Relu(W_enc, W_dec, torch.zeros(N), torch.zeros(D_IN))


def test_the_truth_absorbs_nothing():
    s = score(Relu.tied(F)).scalars
    assert s == {
        "parents_found": 1,
        "parent_recall_child": 1,
        "parent_recall_alone": 1,
        "absorption_full": 0,
        "absorption_fraction": 0,
        "child_in_parent": 0,
        "parent_in_child": 0,
    }


def test_the_absorbing_dictionary_by_hand():
    d = absorbing()
    x = CODES @ F
    torch.testing.assert_close(d.decode(d.encode(x)), x)  # absorption costs no reconstruction
    found = score(d)
    s = found.scalars
    assert s["parent_recall_child"] == 0 and s["parent_recall_alone"] == 1
    assert s["absorption_full"] == 2 / 5 and s["absorption_fraction"] == 2 / 5
    assert s["parent_in_child"] == pytest.approx(0.5**0.5) and s["child_in_parent"] == 0
    for name in RATES:
        assert found.vectors[name].isnan().tolist() == [False, True, True, True]


def test_half_absorbed():
    """The parent's latent still fires with its child, at half its strength: nothing is absorbed in full."""
    d = absorbing()
    d.W_enc[:, 0] = F[0] - F[1] / 2
    d.W_dec[1] = F[0] / 2 + F[1]
    s = score(d).scalars
    assert s["parent_recall_child"] == 1 and s["absorption_full"] == 0
    assert s["absorption_fraction"] == pytest.approx(2 / 5 * 0.5)


def test_a_parent_that_its_own_latent_writes_in_full_is_not_absorbed_by_a_latent_that_writes_it_too():
    d = Relu.tied(F.clone())
    d.W_dec[1] = F[0] + F[1]
    s = score(d).scalars
    assert s["absorption_full"] == 0 and s["absorption_fraction"] == 0 and s["parent_in_child"] > 0.7
    weak = Relu(d.W_enc * torch.tensor([0.75, 1, 1, 1]), d.W_dec, d.b_enc, d.b_dec)
    assert score(weak).scalars["absorption_fraction"] == pytest.approx(2 / 5 * 1 / 1.75)


def test_a_hedging_latent_has_its_child_mixed_in():
    d = Relu.tied(torch.stack([F[0] + 0.5 * F[1], F[2], F[3]]))
    s = score(d).scalars
    assert s["child_in_parent"] == pytest.approx(0.5 / 1.25**0.5) and math.isnan(s["parent_in_child"])


def test_a_grandchild_absorbs_too():
    codes = torch.zeros(8, 3)
    codes[:6, 0], codes[:4, 1], codes[:1, 2] = 1, 1, 1
    f = torch.eye(3, 5)
    W_enc, W_dec = f.T.clone(), torch.stack([f[0], f[0] + f[1], f[0] + f[1] + f[2]])
    W_enc[:, 0], W_enc[:, 1] = f[0] - f[1], f[1] - f[2]
    e = evidence(codes, torch.tensor([-1, 0, 1]), f)
    found = score(Relu(W_enc, W_dec, torch.zeros(3), torch.zeros(5)), e)
    assert found.vectors["absorption_full"].tolist()[:2] == pytest.approx([4 / 6, 1 / 4])
    assert found.scalars["parent_recall_child"] == 0 and found.scalars["absorption_full"] == pytest.approx(11 / 24)


def test_directions_that_overlap_by_themselves_are_no_absorption():
    """A tied encoder would respond to the overlap, so the pseudo-inverse encodes; the decoder is the true one."""
    f = torch.stack([F[0], (F[0] + F[1]) / 2**0.5, F[2], F[3]])
    e = evidence(f=f)
    enc = torch.linalg.pinv(f)
    s = score(Relu(enc, f, torch.full((N,), -1e-6), torch.zeros(D_IN)), e).scalars
    assert s["absorption_full"] == 0 and s["absorption_fraction"] == 0
    assert s["parent_in_child"] == pytest.approx(0, abs=1e-6) and s["child_in_parent"] == pytest.approx(0, abs=1e-6)


def test_a_smaller_contribution_is_a_miss_and_no_absorption():
    d = absorbing()
    d.W_dec[1] = 0.39 * F[0] + F[1]
    assert score(d).scalars["absorption_full"] == 0 and score(d).scalars["parent_recall_child"] == 0
    d.W_dec[1] = 0.41 * F[0] + F[1]
    assert score(d).scalars["absorption_full"] == 2 / 5


def test_random_directions_find_no_parent_and_get_no_credit():
    g = torch.Generator().manual_seed(0)
    f = random_directions(40, 200, g)
    codes = (torch.rand(500, 40, generator=g) < 0.2).float()
    parents = torch.tensor([-1] * 8 + [i % 8 for i in range(32)])
    codes[:, 8:] *= codes[:, parents[8:]]
    s = score(Relu.tied(random_directions(40, 200, g)), evidence(codes, parents, f)).scalars
    assert s["parents_found"] == 0 and all(math.isnan(s[name]) for name in ABSORPTION_SCORES[1:])


def test_a_dead_latent_gets_no_credit():
    d = Relu.tied(F)
    dead = replace(d, b_enc=torch.tensor([-9.0, 0, 0, 0]))
    s = score(dead).scalars
    assert s["parents_found"] == 1 and s["parent_recall_alone"] == 0
    assert math.isnan(s["absorption_full"]) and math.isnan(s["absorption_fraction"])


def test_rates_over_no_samples_are_nan():
    alone = CODES.clone()
    alone[:, 1] = 0
    assert math.isnan(score(Relu.tied(F), evidence(alone)).scalars["parent_recall_child"])
    never = CODES.clone()
    never[:, 0] = 0
    s = score(Relu.tied(F), evidence(never)).scalars
    assert all(math.isnan(s[name]) for name in RATES)


def test_the_order_of_latents_does_not_matter():
    d, order = absorbing(), torch.tensor([2, 0, 3, 1])
    shuffled = Relu(d.W_enc[:, order], d.W_dec[order], d.b_enc[order], d.b_dec)
    assert score(shuffled).scalars == pytest.approx(score(d).scalars)


def test_the_length_of_decoder_rows_does_not_matter():
    d = absorbing()
    scaled = Relu(d.W_enc / 3, d.W_dec * 3, d.b_enc, d.b_dec)
    assert score(scaled).scalars == pytest.approx(score(d).scalars)


def test_only_evidence_with_parents_serves_it():
    assert Config().served_by(evidence().provides)
    assert not Config().served_by(evidence(parents=torch.full((N,), -1)).provides)
    e = evidence()
    assert not Config().served_by(replace(e, truth=replace(e.truth, parents=None)).provides)


def test_random_errors_of_direction_score_zero_mixing_on_average():
    """A hundred parents with a child each, all with noisy latents: neither mixture has a preferred sign, and its spread
    is the noise's share along one direction of 256."""
    g = torch.Generator().manual_seed(2)
    f = random_directions(200, 256, g)
    parents = torch.cat([torch.full((100,), -1), torch.arange(100)])
    codes = (torch.rand(400, 200, generator=g) < 0.3).float()
    codes[:, 100:] *= codes[:, :100]
    s = score(Relu.tied(f + 0.5 * random_directions(200, 256, g)), evidence(codes, parents, f)).scalars
    spread = (0.2 / 256) ** 0.5
    assert s["parents_found"] == 1
    assert abs(s["child_in_parent"]) < 3 * spread / 10 and abs(s["parent_in_child"]) < 3 * spread / 10
