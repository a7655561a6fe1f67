"""Heads and outcomes: a model of two heads with one outcome each, and events counted by hand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from sae.analysis.circuits.heads import logits_with, mean_z
from sae.analysis.circuits.outcomes import Effects, Events, effects, frequent, sharing, skip_trigrams
from sae.model.hooked import Model
from sae.model.parts import n_heads, z_of
from sae.model.token_rows import TokenRows
from sae.numerics.seeds import generator
from sae.toys.attention.network import AttentionModelConfig, Network, bridged
from sae.toys.attention.skip_trigram import SkipTrigram

TASK = SkipTrigram(k=2, length=12)
A, B, C = 0, (1, 2), (3, 4)


def text(n: int = 200) -> TokenRows:
    tokens = TASK.batch(0, "test", 0, n)
    every = torch.ones_like(tokens, dtype=torch.bool)
    return TokenRows(tokens, every, tokens != TASK.bos)


def two_heads() -> Model:
    """Head h attends from B_h to A, and writes C_h if there is an A."""
    network = Network(AttentionModelConfig(n_heads=2, d_head=2, embedding="one_hot"), TASK, generator("two"))
    for p in (network.W_Q, network.W_K, network.W_V, network.W_O):
        p.data.zero_()
    for h in (0, 1):
        network.W_Q.data[0, h, B[h], 0] = 20.0
        network.W_K.data[0, h, A, 0] = 1.0
        network.W_V.data[0, h, A, 1] = 1.0
        network.W_O.data[0, h, 1, TASK.d_vocab + C[h]] = 6.0
    return bridged(network, "two heads", "cpu")


def test_skip_trigrams_are_found_and_their_events_are_where_they_are():
    rows = text()
    found = skip_trigrams(rows, 2)
    assert sorted(found.outcomes) == [(A, B[0], C[0]), (A, B[1], C[1])]
    for row, position, outcome in zip(found.row, found.position, found.outcome, strict=True):
        s, d, o = found.outcomes[int(outcome)]
        tokens = rows.tokens[row].tolist()
        assert tokens[position] == d and tokens[position + 1] == o and s in tokens[:position]
    assert found.outcome.bincount().tolist() == [100, 100]


def test_frequent_outcomes_are_the_commonest_next_tokens():
    rows = text()
    found = frequent(rows, 3, most=50)
    count = rows.targets[rows.counted].bincount()
    assert [o for (o,) in found.outcomes] == count.argsort(descending=True, stable=True)[:3].tolist()
    assert torch.equal(rows.tokens[found.row, found.position + 1], found.target)
    assert bool(rows.counted[found.row, found.position].all()) and len(found.row) == 150


@pytest.mark.parametrize("how", ["zero", "mean"])
def test_each_head_serves_its_own_outcome(how: str):
    rows = text()
    events = skip_trigrams(rows, 2)
    model = two_heads()
    found = effects(model, rows, events, "zero" if how == "zero" else "mean")
    matrix = found.matrix(events)
    own = torch.tensor([[o == C[h] for *_, o in events.outcomes] for h in (0, 1)])
    assert float(matrix[own].min()) > 0.9 and float(matrix[~own].abs().max()) < 0.5 * float(matrix[own].min())
    shared = sharing(found, events)
    assert shared.heads_per_outcome.value < 1.6 < shared.heads_permuted.low  # the permuted are shared by both alike
    assert shared.outcomes_per_head.value < 1.6 < shared.outcomes_permuted.low
    assert shared.specific.value == 1 and bool(shared.is_specific.all())
    assert shared.specific_permuted.value == pytest.approx(0.05, abs=0.03)


def test_an_effect_is_the_log_probability_that_the_ablation_takes():
    rows, model = text(), two_heads()
    events = frequent(rows, 2, most=20)
    found = effects(model, rows, events, "zero", rows_at_once=7)
    without = logits_with(model, rows, torch.tensor([False, True])).log_softmax(-1)
    clean = model.logits(rows).log_softmax(-1)
    at = events.row, events.position, events.target
    torch.testing.assert_close(found.clean, clean[at])
    torch.testing.assert_close(found.change[0], (clean - without)[at])


def test_heads_that_serve_all_outcomes_alike_are_shared_and_nothing_is_specific():
    draw = generator("alike")
    events = Events([(i,) for i in range(8)], *(torch.zeros(800).long(),) * 2, torch.arange(8).repeat_interleave(100))
    change = torch.tensor([[1.0], [0.5], [0.0]]) + 0.2 * torch.randn(3, 800, generator=draw)
    found = sharing(Effects(change, torch.zeros(800)), events)
    assert found.heads_per_outcome.value == pytest.approx(1.5**2 / 1.25, abs=0.1)
    assert found.heads_permuted.low < found.heads_per_outcome.value < found.heads_permuted.high
    assert found.specific.value < 0.2


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_on_transformers_an_ablated_head_is_at_its_mean(tiny_models: Mapping[str, Path], name: str):
    model = Model.boot(str(tiny_models[name]))
    tokens = torch.randint(4, 40, (6, 9), generator=generator("tokens"))
    every = torch.ones_like(tokens, dtype=torch.bool)
    rows = TokenRows(tokens, every, every)
    means, heads = mean_z(model, rows, rows_at_once=4), n_heads(model)
    assert [tuple(means[layer].shape) for layer in (0, 1)] == [(heads, 16 // heads)] * 2
    acts = model.activations(tokens, every, z_of(model, 1))
    torch.testing.assert_close(means[1].flatten(), acts.flatten(0, 1).mean(0), rtol=1e-4, atol=1e-6)
    found = effects(model, rows, frequent(rows, 3), "mean")
    assert found.change.shape[0] == 2 * heads and float(found.change.abs().max()) > 1e-4
    # All heads kept is the model itself.
    whole = logits_with(model, rows, torch.ones(heads, dtype=torch.bool), 0, means[0])
    torch.testing.assert_close(whole, model.logits(rows))
