"""Refinement finds directions and firing that one layer could not, without the truth."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import sae
from sae.dictionaries.relu import Relu
from sae.numerics.matching import cosines
from sae.numerics.seeds import generator
from sae.numerics.stagewise import SupportCodes, stagewise
from sae.refinement import Fit
from sae.source import TensorSource
from sae.sources.independent import Config as Independent
from sae.training.wasted_latents import Pairs, explained_by_others, shared_directions

SOURCE = Independent(n_features=40, d_in=48, probability=0.03).build()
QUICK = {"steps": 20, "batch_size": 512}


def truth() -> torch.Tensor:
    assert SOURCE.truth is not None
    return SOURCE.truth.directions


def spoiled(noise: float = 0.05) -> Relu:
    """The true directions with noise, two of them lost: one is a double of another, one points where nothing is."""
    g = generator("spoiled", 0)
    rows = truth() + noise * torch.randn(truth().shape, generator=g)
    rows[5], rows[9] = rows[0], -rows.sum(0)
    return Relu.tied(rows / rows.norm(dim=-1, keepdim=True))


@pytest.mark.usefixtures("shapes_unchecked")
def test_directions_and_firing_become_right_together():
    batch = SOURCE.batch(0, 4000, "test")
    before, after = spoiled(), sae.refine(spoiled(), SOURCE, **QUICK)
    assert float(cosines(truth(), before.W_dec).amax(1).min()) < 0.7
    assert float(cosines(truth(), after.W_dec).amax(1).min()) > 0.98, "those that were lost are found, too"
    evidence = {"features": truth(), "codes": batch.codes}
    was, became = (sae.score(d, batch.acts, **evidence) for d in (before, after))
    assert became["f1"] > 0.9 > was["f1"] and became["mcc"] > 0.99 > was["mcc"]


def test_the_truth_is_a_fixed_point():
    after = sae.refine(Relu.tied(truth()), SOURCE, **QUICK)
    best = cosines(truth(), after.W_dec)
    assert after.n_latents == 40 and torch.equal(best.argmax(1), torch.arange(40)) and float(best.diag().min()) > 0.998


def test_the_seed_decides_and_the_card_tells():
    first, again, other = (sae.refine(spoiled(), SOURCE, seed=s, steps=2, batch_size=64) for s in (0, 0, 1))
    assert torch.equal(first.W_dec, again.W_dec) and not torch.equal(first.W_dec, other.W_dec)
    assert first.card["refine"]["steps"] == 2 and first.card["refine"]["seed"] == 0
    torch.testing.assert_close(first.W_dec.norm(dim=-1), torch.ones(first.n_latents))


def test_permuting_latents_permutes_the_result():
    rows = truth() + 0.1 * torch.randn(truth().shape, generator=generator("near", 0))
    d, order = Relu.tied(rows), torch.randperm(40, generator=generator("order", 0))
    turned = replace(d, W_enc=d.W_enc[:, order], W_dec=d.W_dec[order], b_enc=d.b_enc[order])
    still = {"steps": 3, "batch_size": 256, "replace_until": 0.0, "rare": 0.0, "k": 8}
    one, other = (sae.refine(e, SOURCE, **still) for e in (d, turned))
    torch.testing.assert_close(other.W_dec, one.W_dec[order], rtol=1e-3, atol=1e-4)


def test_a_decoder_bias_is_learned_where_there_is_one_and_stays_zero_where_not():
    offset = torch.linspace(-1, 1, 48)
    x = SOURCE.batch(0, 4000).acts + offset
    near = replace(Relu.tied(truth()), b_dec=offset + 0.05)
    found = sae.refine(near, x, steps=15, batch_size=512)
    assert float((found.b_dec - offset).norm()) < 0.5 * float((near.b_dec - offset).norm())
    assert not bool(sae.refine(Relu.tied(truth()), SOURCE, steps=1, batch_size=64).b_dec.any())


def test_latents_that_never_fire_are_dropped():
    extra = torch.cat([truth(), -truth()[:3]])
    assert sae.refine(Relu.tied(extra), SOURCE, **QUICK, replace_until=0.0, rare=0.005).n_latents == 40


def codes_of(z: torch.Tensor, x: torch.Tensor, W: torch.Tensor) -> SupportCodes:
    """Codes with all latents of every sample in its support."""
    return SupportCodes(torch.arange(z.shape[1]).expand(z.shape), z, x - z @ W)


def test_an_update_with_the_true_codes_finds_the_directions():
    g = generator("update", 0)
    z = torch.rand(500, 5, generator=g) * (torch.rand(500, 5, generator=g) < 0.5)
    W = torch.nn.functional.normalize(torch.randn(5, 8, generator=g))
    fit = Fit.of(Relu.tied(torch.nn.functional.normalize(W + 0.3)))
    fit.move(fit.look(codes_of(z, z @ W, fit.W_dec), keep=0.0, firings=0).solution())
    torch.testing.assert_close(fit.W_dec, W, rtol=1e-3, atol=1e-3)


def test_earlier_batches_hold_a_direction_and_rare_latents_remember_longer():
    W, x = torch.eye(3), torch.eye(3)[[1]]
    frequent, rare = torch.tensor([[1.0, 0, 0]] * 100), torch.tensor([[1.0, 0, 0]])
    fit = Fit.of(Relu.tied(W))
    fit.look(codes_of(frequent, frequent @ W, W), keep=0.0, firings=0)
    assert float(fit.held[0]) == 100
    change = fit.look(codes_of(rare, rare @ W + x, W), keep=0.5, firings=0).solution()
    torch.testing.assert_close(change[0], x[0] / 51)  # one sample against half of a hundred
    assert float(fit.held[0]) == 51
    fit.look(codes_of(rare, rare @ W, W), keep=0.5, firings=10)
    assert float(fit.held[0]) == pytest.approx(0.9 * 51 + 1), "one firing of ten: a tenth is forgotten, not half"


def test_a_double_and_a_mixture_give_way_and_nothing_else():
    g = generator("wasted", 0)
    W = torch.nn.functional.normalize(torch.randn(20, 64, generator=g))
    W[7] = torch.nn.functional.normalize(W[3] + 0.1 * W[11], dim=0)
    W[9] = torch.nn.functional.normalize(W[0] + W[1], dim=0)
    energy = torch.ones(20)
    energy[7] = energy[9] = 0.1
    wasted = explained_by_others(W, energy)
    assert wasted.nonzero()[:, 0].tolist() == [7, 9]
    energy[9] = 9.0  # then it is a feature of its own, and the others are not explained by it
    assert explained_by_others(W, energy, at_once=7).nonzero()[:, 0].tolist() == [7]


def test_a_feature_that_two_latents_code_is_found_and_correlated_features_are_not():
    g = generator("pairs", 0)
    true = torch.nn.functional.normalize(torch.randn(3, 16, generator=g))
    W = torch.nn.functional.normalize(torch.randn(5, 16, generator=g))
    strength = 0.5 + torch.rand(300, 1, generator=g)
    # Latents 1 and 3 share a feature; 0 and 2 are features that fire together, each with a strength of its own.
    z = torch.zeros(300, 5)
    z[:100, [1, 3]] = strength[:100] * torch.tensor([0.8, 0.5])
    z[100:200, [0, 2]] = 0.5 + torch.rand(100, 2, generator=g)
    z[150:, [4]] = strength[150:]
    found = list(
        Pairs.of([codes_of(z[:150], z[:150] @ W, W), codes_of(z[150:], z[150:] @ W, W)], 5).coding_one_feature(W)
    )
    assert [{p.frequent, p.rare} for p in found] == [{1, 3}] and found[0].always_together
    expected = torch.nn.functional.normalize(0.8 * W[1] + 0.5 * W[3], dim=0)
    torch.testing.assert_close(found[0].direction, expected)
    z[200:, 1] = 1.0  # the frequent one has another use
    [pair] = Pairs.of([codes_of(z, z @ W, W)], 5).coding_one_feature(W)
    assert (pair.frequent, pair.rare, pair.always_together) == (1, 3, False)
    assert len(true) and not list(Pairs.of([codes_of(z[100:], z[100:] @ W, W)], 5).coding_one_feature(W))


def test_directions_that_residuals_share_come_by_energy_and_lone_ones_do_not():
    residuals = torch.tensor([[1.0, 0, 0], [0.9, 0.1, 0], [0, 2.0, 0.1], [0, 2.0, 0], [0, 0, 9.0]])
    found = list(shared_directions(residuals))
    assert [int(u.argmax()) for u, _ in found] == [1, 0]
    assert found[0][1] == pytest.approx(8.01, abs=0.01) and found[1][1] == pytest.approx(1.82, abs=0.01)


def test_refining_needs_no_matrix_of_latents_by_latents(monkeypatch: pytest.MonkeyPatch):
    """With far more latents than dimensions, the largest tensor has batch times latents numbers, or fewer."""
    n = 3000
    x = SOURCE.batch(0, 400).acts
    d = Relu.tied(torch.nn.functional.normalize(torch.randn(n, 48, generator=generator("wide", 0))))
    largest = 0
    original = torch.Tensor.__matmul__

    def watched(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        nonlocal largest
        product = original(a, b)
        largest = max(largest, product.numel())
        return product

    monkeypatch.setattr(torch.Tensor, "__matmul__", watched)
    sae.refine(d, x, steps=2, batch_size=100, rare=0.0)
    assert 0 < largest <= 1024 * n


def test_steps_of_wide_dictionaries_are_those_of_narrow_ones():
    """Without the matrix of inner products the codes are the same."""
    x = SOURCE.batch(0, 200).acts
    W = torch.nn.functional.normalize(torch.randn(97, 48, generator=generator("wide", 1)))
    wide, narrow = stagewise(x, W, 3.0, 2, 8).dense(97), stagewise(x, W[:96], 3.0, 2, 8).dense(96)
    only = wide[:, 96] == 0
    near = (wide[only, :96] - narrow[only]).abs().amax(1) < 1e-4
    assert float(near.double().mean()) > 0.9


def test_mistakes_are_told():
    with pytest.raises(ValueError, match="x: rows of width 5"):
        sae.refine(spoiled(), TensorSource(torch.randn(50, 5)))
    with pytest.raises(ValueError, match="step"):
        sae.refine(spoiled(), SOURCE, step=3)
