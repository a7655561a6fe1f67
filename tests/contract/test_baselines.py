"""Rules that every baseline obeys."""

from __future__ import annotations

import json

import pytest
import torch

from sae.baseline import BaselineConfig
from sae.registry import configurable
from sae.source import TensorSource
from sae.sources.independent import Config as Independent

SOURCE = Independent(n_features=10, d_in=6, probability=0.15).build()


@pytest.fixture(params=configurable("sae.baselines"))
def method(request: pytest.FixtureRequest) -> BaselineConfig:
    config = configurable("sae.baselines")[request.param].Config
    small = {"n_latents": 9, "n_samples": 500, "n_iterations": 20}
    return config(**{name: value for name, value in small.items() if name in config.model_fields})


def test_the_seed_decides_and_nothing_else(method: BaselineConfig):
    first, again, other = (method.fit(SOURCE, seed).W_dec for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (not method.seeded)


def test_directions_are_unit_and_codes_are_not_negative(method: BaselineConfig):
    d = method.fit(SOURCE, 0)
    torch.testing.assert_close(d.W_dec.norm(dim=-1), torch.ones(d.n_latents))
    z = d.encode(SOURCE.batch(0, 50, "test").acts)
    assert z.shape == (50, d.n_latents) and float(z.min()) >= 0 and bool(torch.isfinite(z).all())


def test_the_card_says_what_was_spent(method: BaselineConfig):
    first, again = (method.fit(SOURCE, 0).card["spent"] for _ in range(2))
    assert first == again == json.loads(json.dumps(first))
    rows, samples, multiply_adds = (first[name] for name in ("rows", "samples", "multiply_adds"))
    assert all(type(value) is int for value in first.values())
    assert 0 <= rows <= samples and (multiply_adds > 0) == (rows > 0)


def test_no_more_rows_are_told_than_the_source_has(method: BaselineConfig):
    if not method.needs:
        assert method.fit(TensorSource(SOURCE.batch(0, 300).acts), 0).card["spent"]["rows"] <= 240
