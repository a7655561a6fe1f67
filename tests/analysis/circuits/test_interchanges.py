"""Interchanges on a model whose subspace is known: the token's own embedding, read by the unembedding."""

from __future__ import annotations

import pytest
import torch

from sae.analysis.circuits.interchanges import interchange, learned_subspace, pairs_of
from sae.model.hooked import Model
from sae.numerics.seeds import generator
from sae.registry import UserError
from sae.toys.attention.names import Names
from sae.toys.attention.network import AttentionModelConfig, Network, bridged

HOOK = "blocks.0.hook_resid_pre"
TASK = Names(n_names=6, n_fillers=2, length=6)


@pytest.fixture(scope="module")
def model() -> Model:
    """Four directions of the residual stream hold the token at the position and are read; the others are noise."""
    network = Network(AttentionModelConfig(n_heads=1, d_head=4, d_model=12), TASK, generator("test", 0))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.startswith(("W_O", "b_", "W_pos")):
                parameter.zero_()
        code = torch.randn(6, 4, generator=generator("test", 1))
        network.W_E[:, :4] = 0.0
        network.W_E[:6, :4] = code
        network.W_U.zero_()
        network.W_U[:4] = 5 * code.T
    return bridged(network, "by hand", "cpu")


def rows(seed: int) -> torch.Tensor:
    tokens = TASK.batch(seed, "train", 0, 300)
    tokens[:, 3] = torch.randint(6, (300,), generator=generator("test", 2, seed))
    return tokens


def test_the_subspace_that_is_read_moves_the_answer_and_the_rest_does_not(model: Model):
    tokens = rows(0)
    pairs = pairs_of(tokens, tokens[:, 3], 3)
    assert bool((pairs.answers[:, 0] == pairs.base[:, 3]).all() and (pairs.answers[:, 1] == pairs.source[:, 3]).all())
    assert bool((pairs.answers[:, 0] != pairs.answers[:, 1]).all()) and len(pairs) < 300
    eye = torch.eye(12)
    moved = [interchange(model, pairs, HOOK, basis).moved.value for basis in (eye, eye[:4], eye[4:])]
    assert moved == pytest.approx([1, 1, 0], abs=1e-5)
    half = interchange(model, pairs, HOOK, eye[:2])
    code = model.bridge.W_E[:6, :4].detach()
    apart = [code[b] - code[a] for a, b in pairs.answers.tolist()]
    by_hand = sum(float(x[:2] @ x[:2]) for x in apart) / sum(float(x @ x) for x in apart)
    assert half.moved.value == pytest.approx(by_hand, abs=1e-4)
    assert half.moved.low < half.moved.value < half.moved.high


def test_the_subspace_is_learned_and_holds_on_other_pairs(model: Model):
    fitted, other = (pairs_of(tokens, tokens[:, 3], 3) for tokens in (rows(1), rows(2)))
    basis = learned_subspace(model, fitted, HOOK, 4, steps=250, lr=0.1)
    torch.testing.assert_close(basis @ basis.T, torch.eye(4), atol=1e-5, rtol=0)
    random = torch.linalg.qr(torch.randn(12, 4, generator=generator("test", 3))).Q.T
    found, by_chance = (interchange(model, other, HOOK, b).accuracy for b in (basis, random))
    assert found.low > by_chance.high and found.value > 0.9


def test_an_earlier_place_is_interchanged_and_the_answer_read_later():
    """Without positions, replacing all of the embedding at a place is replacing the token there."""
    network = Network(AttentionModelConfig(n_layers=2, n_heads=2, d_head=4, d_model=8), TASK, generator("test", 4))
    network.W_pos.data.zero_()
    tokens = TASK.batch(3, "test", 0, 200)
    places = 1 + torch.arange(200) % 4
    pairs = pairs_of(tokens, TASK.answers(tokens)[:, -1], 5, places=places)
    assert len(pairs[:10].places) == 10 and bool((pairs.places[:, 0] != pairs.places[:, 1]).any())
    base, at = pairs.base.clone(), torch.arange(len(pairs))
    base[at, pairs.places[:, 0]] = pairs.source[at, pairs.places[:, 1]]

    def ahead(rows: torch.Tensor) -> torch.Tensor:
        logits = network(rows)[:, 5].detach()
        return logits[at, pairs.answers[:, 1]] - logits[at, pairs.answers[:, 0]]

    before, there, by_hand = ahead(pairs.base), ahead(pairs.source), ahead(base)
    found = interchange(bridged(network, "untrained", "cpu"), pairs, HOOK, torch.eye(8)).moved.value
    assert found == pytest.approx(float((by_hand - before).mean() / (there - before).mean()), abs=1e-4)


def test_all_of_the_heads_outputs_at_the_end_move_the_answer_and_a_subspace_of_them_is_learned():
    network = Network(AttentionModelConfig(n_layers=1, n_heads=2, d_head=4, d_model=8), TASK, generator("test", 5))
    tokens = TASK.batch(4, "test", 0, 100)
    pairs = pairs_of(tokens, TASK.answers(tokens)[:, -1], 5)
    model = bridged(network, "untrained", "cpu")
    basis = learned_subspace(model, pairs, "blocks.0.attn.hook_z", 2, steps=2, batch=16)
    torch.testing.assert_close(basis @ basis.T, torch.eye(2), atol=1e-5, rtol=0)
    part, whole = (interchange(model, pairs, "blocks.0.attn.hook_z", b).moved.value for b in (basis, torch.eye(8)))
    assert whole == pytest.approx(1, abs=1e-4) and abs(part - 1) > 0.01


def test_what_is_no_interchange_is_refused(model: Model):
    tokens = rows(0)
    with pytest.raises(UserError, match="not orthonormal"):
        interchange(model, pairs_of(tokens, tokens[:, 3], 3), HOOK, 2 * torch.eye(12)[:3])
    with pytest.raises(UserError, match="all pairs of rows have the same answer"):
        pairs_of(tokens, tokens[:, 3] * 0, 3)
