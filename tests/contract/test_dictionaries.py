"""Rules that every dictionary obeys."""

from __future__ import annotations

import pytest
import torch

import sae
from sae.dictionaries.gated import Gated
from sae.dictionaries.matching_pursuit import MatchingPursuit
from sae.dictionaries.matryoshka import Matryoshka
from sae.dictionaries.standardised import Standardised
from sae.dictionaries.topk import TopK
from sae.dictionaries.unrolled import Unrolled
from sae.registry import config_class, configurable, kinds
from sae.testing import check_codes, check_dictionary


def make(kind: str) -> sae.Dictionary:
    g = torch.Generator().manual_seed(0)
    rows = torch.randn(10, 6, generator=g)
    rows /= rows.norm(dim=-1, keepdim=True)
    b_enc, b_dec, own = torch.randn(10, generator=g), torch.randn(6, generator=g), torch.rand(10, generator=g)
    if kind == "matching_pursuit":
        return MatchingPursuit(rows.T.contiguous(), rows, torch.zeros(10), b_dec, k=3)
    parts = torch.randn(6, 10, generator=g), rows, b_enc, b_dec
    if kind == "topk":
        return TopK(*parts, k=3)
    if kind == "gated":
        return Gated(*parts, gain=1 + own, shift=own)
    if kind == "matryoshka":
        return Matryoshka(*parts, threshold=own, levels=(5, 10))
    if kind == "unrolled":
        return Unrolled(*parts, threshold=own, first_threshold=own / 2, step=0.4)
    cls = kinds("dictionaries")[kind].KIND
    return cls(*parts, threshold=own) if kind in ("jumprelu", "batchtopk") else cls(*parts)


@pytest.fixture(params=kinds("dictionaries"))
def d(request: pytest.FixtureRequest) -> sae.Dictionary:
    return make(request.param)


def test_the_files_name_is_the_kind(d: sae.Dictionary):
    assert kinds("dictionaries")[d.kind].KIND is type(d)


def test_another_width_is_refused(d: sae.Dictionary, shapes_unchecked: None):
    with pytest.raises(sae.UserError, match=r"x: shape \[5, 1\], but the dictionary takes \[\.\.\., \d\]"):
        d.encode(torch.zeros(5, 1))


def test_the_rules_of_codes(d: sae.Dictionary):
    check_codes(d, torch.randn(6, 6, generator=torch.Generator().manual_seed(3)))


def test_permuting_latents_permutes_codes(d: sae.Dictionary):
    n = d.n_read if isinstance(d, Standardised) else 10  # the others are numbers of the row, each with a place
    x, order = torch.randn(5, 6), torch.cat([torch.randperm(n), torch.arange(n, 10)])
    tensors = {name: t[order] if len(t) == 10 else t for name, t in d.tensors().items()} | {"W_enc": d.W_enc[:, order]}
    shuffled = type(d)(**tensors, **d.settings())
    torch.testing.assert_close(shuffled.encode(x), d.encode(x)[:, order], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(shuffled.decode(shuffled.encode(x)), d.decode(d.encode(x)), rtol=1e-4, atol=1e-5)


TRAINED = {
    "relu": {"l1": 0.1},
    "gated": {"l1": 0.1},
    "jumprelu": {"l0": 3},
    "topk": {"k": 3},
    "batchtopk": {"k": 3},
    "matryoshka": {"k": 3, "levels": (8, 16)},
    "matching_pursuit": {"k": 3},
    "unrolled": {"k": 3, "levels": (8, 16), "detach": True},
}


@pytest.mark.parametrize("kind", configurable("dictionaries"))
def test_the_rules_of_training(kind: str):
    check_dictionary(config_class("dictionaries", kind)(n_latents=16, **TRAINED[kind]))  # pyright: ignore
