"""Limits in which one architecture becomes another: they train alike, step by step."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sae.dictionaries.gated import Gated
from sae.dictionaries.jumprelu import JumpReLU
from sae.dictionaries.relu import Relu
from sae.registry import config_class
from sae.sources.independent import Config as Independent
from sae.training.config import TrainConfig
from sae.training.loop import train
from sae.training.state import State

SOURCE = Independent(n_features=24, d_in=12, probability=0.1).build()
N = 32


def trained(kind: str, batch_size: int = 64, steps: int = 60, **settings: Any) -> State:
    config = config_class("dictionaries", kind)(n_latents=N, **settings)
    training = TrainConfig(steps=steps, batch_size=batch_size, lr=1e-2, resample_every=0, n_scale=1024, dead_after=20)
    *_, state = train([(config, 0)], SOURCE, training)
    return state


LIMITS = {
    "matryoshka of one level = batchtopk": (
        ("matryoshka", {"levels": (N,), "k": 3}),
        ("batchtopk", {"k": 3}),
    ),
    "matryoshka of one level over relu = relu": (
        ("matryoshka", {"levels": (N,), "l1": 0.5}),
        ("relu", {"l1": 0.5}),
    ),
    "topk of all = relu": (("topk", {"k": N, "aux_coefficient": 0}), ("relu", {"l1": 0.0})),
    "batchtopk of all = relu": (("batchtopk", {"k": N, "aux_coefficient": 0}), ("relu", {"l1": 0.0})),
    "batchtopk on a batch of one = topk": (
        ("batchtopk", {"k": 3, "batch_size": 1}),
        ("topk", {"k": 3, "batch_size": 1}),
    ),
    "jumprelu at zero = relu": (("jumprelu", {"threshold": 0.0, "l0_coefficient": 0.0}), ("relu", {"l1": 0.0})),
    "lp of one = l1": (("relu", {"l1": 0.5, "penalty": "lp", "p": 1.0}), ("relu", {"l1": 0.5})),
    "a wide tanh = l1": (("relu", {"l1": 0.5, "penalty": "tanh", "width": 1e6}), ("relu", {"l1": 0.5})),
    "a wide log = l1": (("relu", {"l1": 0.5, "penalty": "log", "width": 1e6}), ("relu", {"l1": 0.5})),
}


@pytest.mark.parametrize("limit", LIMITS)
def test_a_limit_is_the_other_architecture(limit: str):
    (kind, settings), (other_kind, other_settings) = LIMITS[limit]
    one, two = trained(kind, **settings).stack, trained(other_kind, **other_settings).stack
    for name in ("W_enc", "W_dec", "b_enc", "b_dec"):
        torch.testing.assert_close(getattr(one, name), getattr(two, name), rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("changed", [{"levels": (8, N), "k": 3}, {"levels": (N,), "k": 4}])
def test_away_from_a_limit_they_differ(changed: dict[str, Any]):
    one, two = trained("matryoshka", **changed).stack, trained("batchtopk", k=3).stack
    assert float((one.W_dec - two.W_dec).abs().max()) > 0.05


def test_a_gate_that_is_open_is_no_gate():
    g = torch.Generator().manual_seed(0)
    parts = (torch.randn(5, 9, generator=g), torch.randn(9, 5, generator=g), torch.randn(9), torch.randn(5))
    relu = Relu(*parts)
    x = torch.randn(40, 5, generator=g)
    assert torch.equal(Gated(*parts, gain=torch.ones(9), shift=torch.zeros(9)).encode(x), relu.encode(x))
    assert torch.equal(JumpReLU(*parts, threshold=torch.zeros(9)).encode(x), relu.encode(x))


@pytest.mark.parametrize("kind", ["batchtopk", "matryoshka"])
def test_the_codes_of_a_sample_do_not_depend_on_the_batch(kind: str):
    [d] = trained(kind, k=2, steps=400).dictionaries()
    x = SOURCE.batch(3, 500, "test").acts
    together = d.encode(x)
    alone = torch.cat([d.encode(row[None]) for row in x])
    torch.testing.assert_close(together, alone)
    assert float((together > 0).sum(-1).double().mean()) == pytest.approx(2, rel=0.15)
    assert len({*(together > 0).sum(-1).tolist()}) > 2
