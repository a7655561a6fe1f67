"""Wider MLPs with the same function."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sae.registry import UserError
from sae.toys.language.network import LanguageModelConfig, LanguageNetwork
from sae.toys.language.widening import WideningConfig, is_trained, widened_state

FORMS: dict[str, dict[str, Any]] = {"gelu": {}, "relu": {"activation": "relu"}, "swiglu": {"activation": "swiglu"}}


def form(**settings: Any) -> LanguageModelConfig:
    table: dict[str, Any] = {"d_model": 16, "n_heads": 2, "mlp_ratio": 2, "n_layers": 2, "n_ctx": 12, **settings}
    return LanguageModelConfig(**table)


def network(config: LanguageModelConfig) -> LanguageNetwork:
    drawn = LanguageNetwork(config, 40).draw(torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in drawn.parameters():  # biases too
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return drawn


@pytest.mark.parametrize("kind", FORMS)
def test_a_widened_network_is_the_same_function(kind: str):
    narrow = network(form(**FORMS[kind]))
    wide = LanguageNetwork(form(**FORMS[kind], mlp_ratio=20), 40)
    wide.load_state_dict(widened_state(narrow, 10))
    tokens = torch.arange(36).reshape(3, 12)
    torch.testing.assert_close(wide(tokens), narrow(tokens), rtol=0, atol=1e-5)


def test_noise_is_on_the_input_weights_of_one_layer_only():
    narrow = network(form())
    plain = widened_state(narrow, 3)
    noisy = widened_state(narrow, 3, 1, 0.1, torch.Generator().manual_seed(2))
    changed = [name for name, value in noisy.items() if not torch.equal(value, plain[name])]
    assert changed == ["blocks.1.mlp.in.weight"]
    weights = narrow.state_dict()["blocks.1.mlp.in.weight"]
    noise = noisy["blocks.1.mlp.in.weight"] - plain["blocks.1.mlp.in.weight"]
    assert float(noise.std()) == pytest.approx(0.1 * float(weights.std()), rel=0.1)
    assert len({tuple(row.tolist()) for row in noise}) == len(noise), "copies differ"


def test_the_trained_parameters_are_those_of_one_mlp():
    names = [name for name in network(form()).state_dict() if is_trained(name, 1)]
    assert names == [f"blocks.1.mlp.{part}" for part in ("in.weight", "in.bias", "out.weight", "out.bias")]


@pytest.mark.parametrize(
    ("narrow", "wide", "layer", "words"),
    [
        ({}, {"mlp_ratio": 5}, 0, r"an MLP 0 of 32 neurons cannot be widened to 80; choose a layer"),
        ({}, {"mlp_ratio": 4}, 2, r"an MLP 2 of 32 neurons"),
        ({"mlp_ratio": 0}, {"mlp_ratio": 4}, 0, r"an MLP 0 of 0 neurons"),
        ({}, {"mlp_ratio": 4, "n_heads": 4}, 0, r"source.model.n_heads = 4: 2 in the model of source.widening.of"),
        ({"activation": "solu"}, {"activation": "solu", "mlp_ratio": 4}, 0, r"share its softmax"),
    ],
)
def test_what_cannot_be_widened_is_refused(narrow: dict[str, Any], wide: dict[str, Any], layer: int, words: str):
    with pytest.raises(UserError, match=words):
        WideningConfig(of=Path("x"), layer=layer).copies(form(**narrow), form(**wide))
