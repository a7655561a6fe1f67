"""TopK: how many codes, its limit, and its training."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

import sae
from sae.dictionaries.relu import Relu
from sae.dictionaries.topk import Config, TopK
from sae.sources.independent import Config as Independent


def tensors() -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    W_dec = torch.randn(10, 6, generator=g)
    return {
        "W_enc": torch.randn(6, 10, generator=g),
        "W_dec": W_dec / W_dec.norm(dim=-1, keepdim=True),
        "b_enc": torch.randn(10, generator=g),
        "b_dec": torch.randn(6, generator=g),
    }


def test_the_k_largest_codes_of_relu():
    x = torch.randn(200, 6)
    z, relu = TopK(**tensors(), k=3).encode(x), Relu(**tensors()).encode(x)
    assert int((z > 0).sum(-1).max()) == 3
    kept = z > 0
    assert torch.equal(z[kept], relu[kept])
    smallest = torch.where(kept, z, torch.inf).amin(-1, keepdim=True)
    assert bool((relu[~kept & (relu > 0)] <= smallest.expand_as(relu)[~kept & (relu > 0)]).all())


def test_with_all_latents_it_is_relu():
    x = torch.randn(50, 6)
    assert torch.equal(TopK(**tensors(), k=10).encode(x), Relu(**tensors()).encode(x))


@pytest.mark.usefixtures("shapes_unchecked")
def test_it_trains_to_its_k_and_finds_features():
    source = Independent(n_features=24, d_in=16, probability=0.06).build()
    [d] = sae.fit(source, "topk", n_latents=32, k=2, steps=2500, batch_size=256, lr=3e-3)
    test = source.batch(0, 2000, "test")
    s = sae.score(d, test.acts, features=source.truth.directions, codes=test.codes)
    assert s["l0"] <= 2 and s["mcc"] > 0.9 and s["fvu"] < 0.15


def test_more_codes_than_latents_are_refused():
    with pytest.raises(ValidationError, match="k = 20 is more than n_latents = 10"):
        Config(n_latents=10, k=20)
