"""Stacks of toy networks: against single networks, by hand, and rotated."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from sae.numerics.seeds import generator
from sae.toys.features.directions import rotation
from sae.toys.networks.model import Networks
from sae.toys.networks.settings import NetworkConfig, TrainingConfig

X = torch.rand(3, 7, 5, generator=generator("x"))


def networks(n_outputs: int = 5, **settings) -> Networks:
    made = Networks.initialise(NetworkConfig(**settings), 5, n_outputs, [0, 1, 2])
    noisy = {
        name: p + 0.3 * torch.randn(p.shape, generator=generator("noise", name)) for name, p in made.parameters.items()
    }
    return made.with_parameters(noisy)


@pytest.mark.parametrize(
    "settings",
    [
        {"hidden": [2]},
        {"hidden": [4], "activation": "relu", "output": "linear", "output_bias": False},
        {"hidden": [4, 3], "tied": False, "activation": "gelu", "hidden_bias": True, "n_outputs": 6},
        {"hidden": [4], "tied": False, "embed": 8, "activation": "relu"},
        {"hidden": [4], "tied": False, "embed": 8, "residual": True, "output": "linear", "output_bias": False},
    ],
    ids=lambda s: " ".join(f"{k}={v}" for k, v in s.items()),
)
def test_a_stack_is_its_instances_written_out(settings: dict):
    n = networks(**settings)
    found = n(X)
    act = {"linear": lambda x: x, "relu": torch.relu, "gelu": functional.gelu}
    for i in range(3):
        p = {name: t[i] for name, t in n.parameters.items()}
        h = stream = X[i] if n.embedding is None else X[i] @ n.embedding
        for layer in range(1, len(n.config.hidden) + 1):
            h = act[n.config.activation](h @ p[f"W_{layer}"] + p.get(f"b_{layer}", 0))
            torch.testing.assert_close(found.hidden[layer - 1][i], h)
        y = h @ (p["W_1"].T if n.config.tied else p["W_out"]) + p.get("b_out", 0)
        if n.config.residual:
            y = (stream + y) @ n.embedding.T
        torch.testing.assert_close(found.output[i], act[n.config.output](y))
        torch.testing.assert_close(n.instance(i)(X[i][None]).output[0], found.output[i])


def test_samples_shared_by_all_equal_samples_for_each():
    n = networks(hidden=[2])
    torch.testing.assert_close(n(X[:1]).output, n(X[:1].repeat(3, 1, 1)).output)


def test_a_rotated_hidden_layer_is_the_same_network_only_if_it_is_linear():
    """The basis of a linear hidden layer is arbitrary, that of a nonlinear one is privileged."""
    turn = rotation(3, generator("turn"))
    for activation, same in (("linear", True), ("relu", False), ("gelu", False)):
        n = networks(hidden=[3], activation=activation)
        turned = n.with_parameters({**n.parameters, "W_1": n.parameters["W_1"] @ turn})
        assert torch.allclose(n(X).output, turned(X).output, atol=1e-5) == same


def test_the_initial_values_of_an_instance_do_not_depend_on_the_others():
    config = NetworkConfig(hidden=(4, 3), tied=False)
    many, one = (Networks.initialise(config, 5, 2, seeds) for seeds in ([0, 1, 2], [1]))
    for name, p in one.parameters.items():
        assert torch.equal(p[0], many.parameters[name][1])


def test_embeddings_have_unit_rows_and_the_tight_one_spreads_evenly():
    def embedding(kind: str) -> torch.Tensor:
        config = NetworkConfig(hidden=(4,), tied=False, embed=8, embedding=kind)
        rows = Networks.initialise(config, 64, 64, [0]).embedding
        assert rows is not None
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(64))
        return torch.linalg.svdvals(rows)

    random, tight = embedding("random"), embedding("tight")
    assert float(tight[0] / tight[-1]) < 1.3 < float(random[0] / random[-1])


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"hidden": [4, 3]}, "tied weights allow only one hidden layer; set tied = false"),
        ({"hidden": [4], "embed": 8}, "tied = true: not possible with an embedding .*; set tied = false"),
        (
            {"hidden": [4], "tied": False, "residual": True},
            "set output = 'linear', output_bias = false",
        ),
        ({"hidden": [4], "hidden_bias_start": -1}, "hidden_bias_start = -1: .*; set hidden_bias = true"),
        ({"hidden": []}, "at least 1 item"),
        ({"hidden": [0]}, "greater than 0"),
        ({"hidden": [4], "dropout": 1.0}, "less than 1"),
    ],
)
def test_inconsistent_settings_are_errors(settings: dict, problem: str):
    with pytest.raises(ValueError, match=problem):
        NetworkConfig(**settings)


def test_the_rate_rises_and_falls():
    assert [TrainingConfig(steps=4, lr=1.0).rate(i) for i in range(4)] == [1, 0.75, 0.5, 0.25]
    assert TrainingConfig(steps=4, lr=1.0, decay="cosine").rate(2) == pytest.approx(0.5)
    assert [TrainingConfig(steps=4, lr=1.0, decay="constant", warm_up=0.5).rate(i) for i in range(3)] == [0.5, 1, 1]
