"""Refinement finds directions and firing that one layer could not, without the truth."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import sae
from sae.dictionaries.relu import Relu
from sae.numerics.matching import cosines
from sae.numerics.seeds import generator
from sae.numerics.sparse_coding import LassoCodes
from sae.refinement import Fit, doubles, shared_directions
from sae.source import TensorSource
from sae.sources.independent import Config as Independent

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
    still = {"steps": 3, "batch_size": 256, "replace_until": 0.0, "rare": 0.0}
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


def test_one_update_is_least_squares():
    g = generator("update", 0)
    z = torch.rand(500, 5, generator=g) * (torch.rand(500, 5, generator=g) < 0.5)
    W = torch.nn.functional.normalize(torch.randn(5, 4, generator=g))
    fit = Fit.of(Relu.tied(torch.nn.functional.normalize(W + 0.3)))
    fit.look(z @ W, LassoCodes(0.5 * z, z), shrunk=False, keep=0.0)
    fit.solve(500)
    torch.testing.assert_close(fit.W_dec, W, rtol=1e-3, atol=1e-3)


def test_only_the_weaker_of_two_doubles_gives_way():
    W = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]))
    assert doubles(W, torch.tensor([1.0, 2.0, 0.1]), same=0.9).tolist() == [True, False, False]
    assert doubles(W, torch.tensor([1.0, 1.0, 0.1]), same=0.9).tolist() == [False, True, False]


def test_directions_that_residuals_share_come_by_energy_and_lone_ones_do_not():
    residuals = torch.tensor([[1.0, 0, 0], [0.9, 0.1, 0], [0, 2.0, 0.1], [0, 2.0, 0], [0, 0, 9.0]])
    found = list(shared_directions(residuals))
    assert [int(u.argmax()) for u, _ in found] == [1, 0]
    assert found[0][1] == pytest.approx(8.01) and found[1][1] == pytest.approx(1.82)


def test_mistakes_are_told():
    with pytest.raises(ValueError, match="x: rows of width 5"):
        sae.refine(spoiled(), TensorSource(torch.randn(50, 5)))
    with pytest.raises(ValueError, match="step"):
        sae.refine(spoiled(), SOURCE, step=3)
