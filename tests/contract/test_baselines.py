"""Rules that every baseline obeys."""

from __future__ import annotations

import json

import pytest

from sae.baseline import BaselineConfig
from sae.registry import configurable
from sae.sources.independent import Config as Independent
from sae.testing import check_baseline

SOURCE = Independent(n_features=10, d_in=6, probability=0.15).build()


@pytest.fixture(params=configurable("baselines"))
def method(request: pytest.FixtureRequest) -> BaselineConfig:
    config = configurable("baselines")[request.param].Config
    small = {"n_latents": 9, "n_samples": 500, "n_iterations": 20}
    return config(**{name: value for name, value in small.items() if name in config.model_fields})


def test_the_rules_of_baselines(method: BaselineConfig):
    check_baseline(method)


def test_the_training_cost_is_a_number_of_the_settings_and_never_a_measured_time(method: BaselineConfig):
    first, again = (method.fit(SOURCE, 0).card["spent"] for _ in range(2))
    assert first == again == json.loads(json.dumps(first))
    assert all(type(value) is int for value in first.values())
    assert (first["multiply_adds"] > 0) == (first["rows"] > 0)
