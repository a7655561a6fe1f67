"""Rules that every encoder obeys."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch

import sae
from sae.dictionaries.relu import Relu
from sae.dictionaries.topk import TopK
from sae.numerics.seeds import generator
from sae.registry import configurable, kinds
from sae.source import TensorSource
from sae.testing import check_codes

N, D = 12, 8
KINDS = [
    *((kind, {}) for kind in configurable("encoders")),
    ("threshold", {"layer": "learned"}),
    ("fista", {"debias": True}),
    ("stagewise", {"start": "own", "rounds": 0}),
]
SMALL = {"n_rows": 2000, "steps": 60, "batch_size": 64, "k": 4}


def settings_for(kind: str, more: dict[str, Any]) -> dict[str, Any]:
    fields = configurable("encoders")[kind].Config.model_fields
    return {**{name: value for name, value in SMALL.items() if name in fields}, **more}


def directions(n: int = N, d: int = D) -> torch.Tensor:
    rows = torch.randn(n, d, generator=torch.Generator().manual_seed(0))
    return rows / rows.norm(dim=-1, keepdim=True)


def start() -> Relu:
    b_dec = torch.randn(D, generator=torch.Generator().manual_seed(1))
    return Relu.tied(directions(), b_dec).with_card(made="here")


def source() -> TensorSource:
    draw = generator("rows", 0)
    codes = torch.rand(4000, N, generator=draw) * (torch.rand(4000, N, generator=draw) < 0.15)
    return TensorSource(codes @ directions() + start().b_dec)


@pytest.fixture(params=KINDS, ids=lambda p: "-".join([p[0], *map(str, p[1].values())]))
def chosen(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    kind, more = request.param
    return kind, settings_for(kind, more)


@pytest.fixture
def d(chosen: tuple[str, dict[str, Any]]) -> sae.Dictionary:
    return fitted(chosen[0], json.dumps(chosen[1]))


@lru_cache
def fitted(kind: str, settings: str) -> sae.Dictionary:
    return start().with_encoder(kind, source(), **json.loads(settings))


def test_the_directions_stay_and_the_card_tells(d: sae.Dictionary, chosen: tuple[str, dict[str, Any]]):
    assert torch.equal(d.W_dec, start().W_dec) and torch.equal(d.b_dec, start().b_dec)
    assert d.card["made"] == "here" and d.card["encoder"]["kind"] == chosen[0]
    module = kinds("encoders")[chosen[0]]
    assert module.Config.model_fields["kind"].default == chosen[0]
    assert type(d) is (module.KIND if hasattr(module, "KIND") else Relu) and d.kind in (chosen[0], "relu")


def test_another_width_is_refused(d: sae.Dictionary, shapes_unchecked: None):
    with pytest.raises(sae.UserError, match=r"x: shape \[5, 1\], but the dictionary takes \[\.\.\., \d\]"):
        d.encode(torch.zeros(5, 1))


def test_the_rules_of_codes(d: sae.Dictionary):
    x = source().batch(0, 6, "test").acts
    check_codes(d, x)
    assert bool((d.encode(x) > 0).any())


def test_save_and_load_is_exact(d: sae.Dictionary, tmp_path: Path):
    sae.save(d, tmp_path)
    x, e = source().batch(0, 9, "test").acts, sae.load(tmp_path)
    assert type(e) is type(d) and e.card == d.card and e.settings() == d.settings()
    assert torch.equal(e.encode(x), d.encode(x)) and e.multiply_adds() == d.multiply_adds()


def test_the_seed_decides_and_nothing_else(d: sae.Dictionary, chosen: tuple[str, dict[str, Any]]):
    again = start().with_encoder(chosen[0], source(), **chosen[1])
    assert all(torch.equal(t, again.tensors()[name]) for name, t in d.tensors().items())


def test_float64_gives_the_same_codes(d: sae.Dictionary):
    x = source().batch(0, 20, "test").acts
    z = d.to(dtype=torch.float64).encode(x.double())
    assert z.dtype == torch.float64
    torch.testing.assert_close(z.float(), d.encode(x), rtol=1e-3, atol=1e-3)


def test_permuting_latents_permutes_codes(d: sae.Dictionary):
    x, order = source().batch(0, 9, "test").acts, torch.randperm(N, generator=generator("order", 0))
    turned = {"W_dec": d.W_dec[order]}
    turned |= {name: t[..., order] for name, t in d.tensors().items() if name not in ("W_dec", "b_dec")}
    torch.testing.assert_close(replace(d, **turned).encode(x), d.encode(x)[:, order], rtol=1e-4, atol=1e-5)


def test_a_row_at_the_bias_has_no_codes_and_dead_directions_do_no_harm(chosen: tuple[str, dict[str, Any]]):
    W_dec = start().W_dec.clone()
    W_dec[3] = 0
    dead = replace(start(), W_dec=W_dec, W_enc=W_dec.T.contiguous())
    d = dead.with_encoder(chosen[0], source(), **chosen[1])
    z = d.encode(source().batch(0, 50, "test").acts)
    assert bool(torch.isfinite(z).all()) and not bool(z[:, 3].any())
    if chosen[1].get("layer") != "learned":  # whose bias may say that a latent is active most of the time
        assert not bool(d.encode(d.b_dec).any())


def test_orthonormal_directions_are_read_exactly(chosen: tuple[str, dict[str, Any]]):
    draw = generator("orthonormal", 0)
    basis = torch.linalg.qr(torch.randn(D, D, generator=draw)).Q
    codes = (0.3 + torch.rand(4000, D, generator=draw)) * (torch.rand(4000, D, generator=draw) < 0.2)
    kind, settings = chosen
    settings = settings | ({"l1": 1e-4} if kind in ("fista", "threshold", "lista") else {})
    settings |= {"k": D} if "k" in settings else {}
    settings |= {"tolerance": 1e-3} if kind == "omp" else {}
    settings |= {"rounds": 8, "false_alarms": 1.0} if kind == "stagewise" else {}  # eight dimensions: chance is large
    d = Relu.tied(basis).with_encoder(kind, TensorSource(codes @ basis), **settings)
    test = codes[:200]
    z = d.encode(test @ basis)
    slack = 0.15 if settings.get("layer") == "learned" else 2e-3
    assert float(((z > 1e-4) != (test > 0)).float().mean()) < 0.01
    assert float((z - test).abs().mean()) < slack


def test_topk_and_thresholds_are_the_support_of_least_squares():
    x = source().batch(0, 40, "test").acts
    topk = TopK(**start().tensors(), k=3)
    z = topk.with_encoder("nnls").encode(x)
    assert bool(((z > 0) <= (topk.encode(x) > 0)).all()) and int((z > 0).sum(-1).max()) == 3
    cut = start().with_encoder("threshold", source(), n_rows=2000)
    assert bool(((cut.with_encoder("nnls").encode(x) > 0) <= (cut.encode(x) > 0)).all())
    narrow = topk.with_encoder("nnls", k=2).encode(x)
    assert int((narrow > 0).sum(-1).max()) == 2


def test_least_squares_on_the_support_of_a_lasso_is_its_debiased_form():
    lasso = start().with_encoder("fista", units="raw", l1=0.05)
    x, debiased = source().batch(0, 40, "test").acts, lasso.with_encoder("nnls")
    z = debiased.encode(x)
    assert debiased.settings()["debias"] is True and bool(((z > 0) <= (lasso.encode(x) > 0)).all())
    assert float((debiased.decode(z) - x).norm()) < float((lasso.decode(lasso.encode(x)) - x).norm())


def test_optimisation_costs_more_than_a_layer():
    layer = N * D
    assert start().multiply_adds() == layer
    each = {kind: fitted(kind, json.dumps(settings_for(kind, {}))) for kind, _ in KINDS}
    cost = {kind: d.multiply_adds() / layer for kind, d in each.items()}
    assert cost["own"] == cost["threshold"] == 1 < cost["lista"] < cost["fista"]
    assert cost["fista"] == 1 + 200 * N * N / layer
    assert 1 < cost["omp"] < cost["fista"] and cost["nnls"] > 1


def test_mistakes_are_told_in_one_line():
    with pytest.raises(ValueError, match="did you mean 'fista'"):
        start().with_encoder("fistaa")
    with pytest.raises(ValueError, match="training samples are needed to set thresholds on"):
        start().with_encoder("threshold")
    with pytest.raises(ValueError, match="to measure the unit of l1"):
        start().with_encoder("fista")
    with pytest.raises(ValueError, match="a 'omp' dictionary does not have"):
        start().with_encoder("omp").with_encoder("nnls")
    with pytest.raises(ValueError, match=r"x: rows of width 5, but the dictionary takes 8"):
        start().with_encoder("fista", torch.randn(30, 5))
    assert start().with_encoder("fista", units="raw", l1=0.1).settings()["l1"] == 0.1
