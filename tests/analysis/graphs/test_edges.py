"""Attribution graphs: edges are exact where the model is linear, direct, and those of a closed form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sae.analysis.graphs.edges import GraphConfig, attribution_graph
from sae.analysis.graphs.graph import AttributionGraph, LatentTarget, LogitTarget
from sae.analysis.graphs.heads import head_of_latents, joined_over_heads
from sae.analysis.graphs.influence import total_effects
from sae.analysis.graphs.local_model import check_frozen, local_model
from sae.dictionaries.relu import Relu
from sae.dictionaries.transcoder import Transcoder
from sae.dictionary import Dictionary
from sae.model.hooked import Model
from sae.numerics.seeds import generator
from sae.registry import UserError
from sae.toys.attention.network import AttentionModelConfig, Network, bridged
from sae.toys.attention.repeats import Repeats

MLPS = [f"blocks.{i}.mlp.hook_in -> blocks.{i}.mlp.hook_out" for i in (0, 1)]
Z, STREAM = "blocks.0.attn.hook_z", "blocks.1.hook_resid_post"
TARGET = LogitTarget(-1, 7, 9)


def random_dictionary(seed: int, n_latents: int = 20, d: int = 16) -> Dictionary:
    g = torch.Generator().manual_seed(seed)
    W = torch.randn(n_latents, d, generator=g, dtype=torch.float64)
    b = [torch.randn(n, generator=g, dtype=torch.float64) * 0.2 for n in (n_latents, d)]
    return Relu(W.T.contiguous() * 0.4, W, *b)


def with_skip(seed: int) -> Dictionary:
    d = random_dictionary(seed)
    skip = torch.randn(16, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 0.1
    return Transcoder(d.W_enc, d.W_dec, d.b_enc, d.b_dec, W_skip=skip)


def in_float64(model: Model) -> Model:
    model.bridge.original_model.double()
    return model


@pytest.fixture(scope="module")
def gpt2(tiny_models: Mapping[str, Path]) -> Model:
    return in_float64(Model.boot(str(tiny_models["gpt2"])))


def prompt(model: Model, n_tokens: int = 6) -> torch.Tensor:
    return torch.randint(4, model.d_vocab, (1, n_tokens), generator=torch.Generator().manual_seed(1))


def toy(**config: int) -> tuple[Network, Model, torch.Tensor]:
    task = Repeats(vocabulary=8, shortest=3, longest=4, length=9)
    settings = AttentionModelConfig(**{"n_layers": 2, "n_heads": 2, "d_head": 3, "d_model": 10} | config)
    network = Network(settings, task, generator("graphs", 0))
    for name in ("b_Q", "b_K", "b_V", "b_O", "b_U"):
        getattr(network, name).data.normal_(generator=generator("bias", name))
    for W in (network.W_Q, network.W_K):
        W.data *= 3
    return network, in_float64(bridged(network, "toy", "cpu")), task.batch(0, "test", 0, 1)


def relative(graph: AttributionGraph) -> float:
    return float(graph.remainder.abs().max() / graph.value.abs().max())


@pytest.mark.parametrize("transcoder", [random_dictionary, with_skip])
def test_incoming_edges_and_bias_are_the_pre_activation_where_the_model_is_linear(gpt2: Model, transcoder) -> None:
    places = {MLPS[1]: transcoder(1), Z: random_dictionary(2), MLPS[0]: transcoder(3)}
    graph = attribution_graph(gpt2, places, prompt(gpt2), TARGET)
    assert graph.places == (Z, *MLPS) and len(graph.readers) > 60
    assert relative(graph) < 1e-12
    # Where every path ends: inputs, errors, biases.
    effect = total_effects(graph)
    ends = [i for i, node in enumerate(graph.nodes) if node.kind in ("input", "error")]
    biases = (graph.bias / graph.value * effect[graph.readers]).sum()
    assert float(effect[ends].sum() + biases) == pytest.approx(float(graph.value[-1]), rel=1e-9)
    # Values are the codes, of the model and of the dictionary as they are.
    x = gpt2.activations(prompt(gpt2), torch.ones(1, 6).bool(), "blocks.1.mlp.hook_in")[0]
    z = places[MLPS[1]].encode(x)
    for i in graph.at("latent", MLPS[1]):
        assert graph.nodes[i].value == pytest.approx(float(z[graph.nodes[i].position, graph.nodes[i].latent]))


def test_a_llama_is_linear_up_to_the_single_precision_of_its_norms(tiny_models: Mapping[str, Path]) -> None:
    model = in_float64(Model.boot(str(tiny_models["llama"])))
    places = {MLPS[0]: random_dictionary(1), MLPS[1]: random_dictionary(3)}
    assert relative(attribution_graph(model, places, prompt(model), TARGET)) < 1e-5


def test_the_leaves_leave_the_forward_pass_as_it_is(gpt2: Model) -> None:
    places = {MLPS[0]: with_skip(1), STREAM: random_dictionary(2)}
    local = local_model(gpt2, places, prompt(gpt2), True, True)
    reads, logits = local.run(local.leaves(1.0, 2))
    assert torch.allclose(logits[1], local.logits, atol=1e-12)
    assert all(torch.allclose(reads[name][0], place.x, atol=1e-12) for name, place in local.places.items())


def test_edges_are_direct(gpt2: Model) -> None:
    # All paths to the logits lead through the stream behind the last block: only its nodes have edges there.
    places = {Z: random_dictionary(2), STREAM: random_dictionary(1)}
    graph = attribution_graph(gpt2, places, prompt(gpt2), TARGET, GraphConfig(norms="through"))
    of_target = graph.weights[-1]
    assert not bool(of_target[graph.at("input") + graph.at("latent", Z) + graph.at("error", Z)].any())
    last = [i for kind in ("latent", "error") for i in graph.at(kind, STREAM, 5)]
    assert bool(of_target[last].any())
    assert not bool(of_target[[i for i in graph.at("latent", STREAM) if i not in last]].any())


def test_the_edges_of_a_toy_are_its_ov_circuit_weighted_by_attention() -> None:
    network, model, tokens = toy(n_layers=1)
    eye = torch.eye(6, dtype=torch.float64)
    identity = Relu.tied(torch.cat([eye, -eye]), torch.zeros(6, dtype=torch.float64))
    graph = attribution_graph(model, {Z: identity}, tokens, LogitTarget(-1, 3, "mean"))
    x = (network.W_E[tokens[0]] + network.W_pos).detach().double()
    W = {name: getattr(network, name)[0].detach().double() for name in ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K")}
    unembed = network.W_U.detach().double()
    for h in (0, 1):
        q, k = x[-1] @ W["W_Q"][h] + W["b_Q"][h], x @ W["W_K"][h] + W["b_K"][h]
        pattern = (k @ q / 3**0.5).softmax(0)
        along = unembed[:, 3] - unembed.mean(1)
        for j in range(12):  # the latents of the head: coordinates of z and their negatives
            if j % 6 // 3 != h:
                continue
            sign, c = 1 - 2 * (j // 6), j % 3
            try:
                node = graph.index("latent", Z, 8, j)
            except UserError:
                continue  # not active
            into = graph.weights[graph.reader_of[node]][graph.at("input")]
            assert torch.allclose(into, sign * pattern * (x @ W["W_V"][h])[:, c], atol=1e-7)
            out = float(graph.weights[-1, node])
            assert out == pytest.approx(sign * graph.nodes[node].value * float(W["W_O"][h][c] @ along), rel=1e-6)


def test_integrated_gradients_through_attention_add_up_in_many_steps() -> None:
    _, model, tokens = toy()
    tokens = tokens[:, :5]
    places = {f"blocks.{i}.attn.hook_z": random_dictionary(i, 9, 6) for i in (0, 1)}
    frozen, at_prompt, few, many = (
        attribution_graph(model, places, tokens, LogitTarget(-1, 3), config)
        for config in (
            GraphConfig(),
            GraphConfig(attention="through"),
            GraphConfig(attention="through", method="integrated", steps=3),
            GraphConfig(attention="through", method="integrated", steps=48),
        )
    )
    assert relative(frozen) < 1e-12 and relative(at_prompt) > 0.05
    assert relative(many) < 2e-3 and relative(many) < relative(few)
    # Frozen, the pattern gives no position of a key an edge that its value does not have.
    assert not torch.allclose(frozen.weights[-2], many.weights[-2])


def test_a_latent_as_the_target_has_the_edges_that_it_has_as_a_node(gpt2: Model) -> None:
    places = {Z: random_dictionary(2), MLPS[1]: random_dictionary(1)}
    whole = attribution_graph(gpt2, places, prompt(gpt2), TARGET)
    node = next(i for i in whole.at("latent", MLPS[1], 5) if i in whole.reader_of)
    target = LatentTarget(MLPS[1], -1, whole.nodes[node].latent)
    graph = attribution_graph(gpt2, places, prompt(gpt2), target)
    assert torch.allclose(graph.weights[-1][:node], whole.weights[whole.reader_of[node]][:node])
    assert float(graph.bias[-1]) == pytest.approx(float(whole.bias[whole.reader_of[node]]))


def test_of_many_latents_the_most_influential_are_followed(gpt2: Model) -> None:
    places = {Z: random_dictionary(2), MLPS[1]: random_dictionary(1)}
    few = attribution_graph(gpt2, places, prompt(gpt2), TARGET, GraphConfig(max_nodes=5, rows_at_once=2))
    every = attribution_graph(gpt2, places, prompt(gpt2), TARGET, GraphConfig(rows_at_once=3))
    assert len(few.readers) == 6 and few.nodes == every.nodes
    assert all(torch.allclose(few.weights[few.reader_of[i]], every.weights[every.reader_of[i]]) for i in few.reader_of)


def test_a_model_that_ignores_edits_of_its_patterns_is_refused(gpt2: Model) -> None:
    x = prompt(gpt2)
    frozen = local_model(gpt2, {STREAM: random_dictionary(1)}, x, True, True).frozen
    for name, words in (("blocks.0.attn.hook_pattern", 'attention = "through"'), ("ln_final.hook_scale", "norms")):
        # Its own values in place of zeros, or infinity, have the effect that no edit has.
        with pytest.raises(UserError, match=words):
            check_frozen(gpt2, x, {name: frozen[name]})


def test_joined_dictionaries_are_those_of_the_parts() -> None:
    parts = [random_dictionary(i, 5, 3) for i in (0, 1)]
    both, x = joined_over_heads(parts), torch.randn(4, 6, dtype=torch.float64)
    z = torch.cat([d.encode(part) for d, part in zip(parts, x.split(3, 1), strict=True)], 1)
    assert torch.allclose(both.encode(x), z)
    assert torch.allclose(both(x), torch.cat([d(part) for d, part in zip(parts, x.split(3, 1), strict=True)], 1))
    assert head_of_latents(both, 2).tolist() == [0] * 5 + [1] * 5


def test_what_cannot_be_a_graph_is_said_in_one_line(gpt2: Model) -> None:
    x, places = prompt(gpt2), {STREAM: random_dictionary(1)}
    for bad, words in (
        (lambda: attribution_graph(gpt2, {}, x, TARGET), "places: there is none"),
        (lambda: attribution_graph(gpt2, places, x.expand(2, -1), TARGET), "tokens: 2 rows"),
        (lambda: attribution_graph(gpt2, places, x, replace(TARGET, position=6)), "position = 6"),
        (lambda: attribution_graph(gpt2, places, x, LogitTarget(0, 999)), "token = 999"),
        (lambda: attribution_graph(gpt2, places, x, LatentTarget(Z, 0, 1)), "has no dictionary"),
        (lambda: attribution_graph(gpt2, places, x, LatentTarget(STREAM, 0, 99)), "is not active"),
        (
            lambda: attribution_graph(gpt2, places | {"blocks.1.hook_out": places[STREAM]}, x, TARGET),
            "at one hook point",
        ),
        (lambda: attribution_graph(gpt2, {"hook_embed": random_dictionary(1)}, x, TARGET), "where the inputs are"),
    ):
        with pytest.raises(UserError, match=words):
            bad()
