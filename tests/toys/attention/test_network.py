"""The attention-only model: equal through the Bridge, attention only, and training that resumes exactly."""

from __future__ import annotations

import pytest
import torch

from sae.model.token_rows import TokenRows
from sae.numerics.seeds import generator
from sae.toys.attention.addition import Addition
from sae.toys.attention.network import AttentionModelConfig, Network, attend, attend_narrow, bridged
from sae.toys.attention.repeats import Repeats
from sae.toys.attention.skip_trigram import SkipTrigram
from sae.toys.attention.task import TokenTask
from sae.toys.attention.training import AttentionTrainingConfig, Training, answer_loss, evaluate

SMALL = Addition(n_digits=2, n_train=200, n_test=100)
CASES: dict[str, tuple[TokenTask, AttentionModelConfig]] = {
    "narrow": (SMALL, AttentionModelConfig(n_heads=3, d_head=2, d_model=10)),
    "wide": (SMALL, AttentionModelConfig(n_heads=2, d_head=6, d_model=10)),
    "two layers": (Repeats(), AttentionModelConfig(n_layers=2, n_heads=2, d_head=5, d_model=12)),
    "one hot": (SkipTrigram(), AttentionModelConfig(n_heads=2, d_head=1, embedding="one_hot")),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[TokenTask, Network]:
    task, config = CASES[request.param]
    network = Network(config, task, generator("test", 0))
    for name, parameter in network.named_parameters():  # biases are initially zero, which would hide errors in them
        if name.startswith("b_") and parameter.requires_grad:
            parameter.data.normal_(generator=generator("bias", name))
    return task, network


def text(task: TokenTask, size: int = 6) -> TokenRows:
    tokens = task.batch(0, "train", 0, size)
    everything = torch.ones_like(tokens, dtype=torch.bool)
    return TokenRows(tokens, everything, everything, task.answers(tokens))


def test_the_bridge_gives_the_same_logits_and_losses(case: tuple[TokenTask, Network]):
    task, network = case
    model, rows = bridged(network, "toy", "cpu"), text(task)
    torch.testing.assert_close(model.logits(rows), network(rows.tokens).detach(), rtol=1e-5, atol=1e-5)
    assert rows.answers is not None
    loss = answer_loss(network, rows.tokens, rows.answers)
    torch.testing.assert_close(model.losses(rows)[0].mean(), loss.detach())


def test_the_model_has_only_embeddings_and_attention(case: tuple[TokenTask, Network]):
    task, network = case
    model, rows = bridged(network, "toy", "cpu"), text(task)
    _, cache = model.bridge.run_with_cache(rows.tokens)
    assert not any("mlp" in name or "ln2" in name for name in cache)
    for layer in range(model.n_layers):
        assert torch.equal(cache[f"blocks.{layer}.ln1.hook_out"], cache[f"blocks.{layer}.hook_in"])
        added = cache[f"blocks.{layer}.hook_in"] + cache[f"blocks.{layer}.attn.hook_out"]
        torch.testing.assert_close(cache[f"blocks.{layer}.hook_out"], added)
    assert torch.equal(cache["ln_final.hook_out"], cache[f"blocks.{model.n_layers - 1}.hook_out"])
    theirs = model.bridge.original_model.parameters()
    assert sum(p.numel() for p in network.parameters()) == sum(p.numel() for p in theirs)


def test_the_model_of_the_hackathon_has_its_number_of_parameters():
    network = Network(
        AttentionModelConfig(n_heads=32, d_head=2, d_model=128), Addition(n_digits=6), generator("test", 0)
    )
    assert sum(p.numel() for p in network.parameters()) == 38_346


def test_narrow_and_wide_attention_are_the_same():
    q, k, v = (torch.randn(4, n, 3, 2, generator=generator("qkv", n)) for n in (5, 8, 9))
    v = v[:, :8]
    torch.testing.assert_close(attend_narrow(q, k, v), attend(q, k, v))
    naive = torch.zeros(4, 5, 3, 2)
    for i in range(5):
        scores = torch.einsum("bhe,bkhe->bhk", q[:, i], k[:, : i + 4]) / 2**0.5
        naive[:, i] = torch.einsum("bhk,bkhe->bhe", scores.softmax(-1), v[:, : i + 4])
    torch.testing.assert_close(attend(q, k, v), naive)


def test_later_positions_alone_have_the_same_logits(case: tuple[TokenTask, Network]):
    task, network = case
    tokens = text(task).tokens
    torch.testing.assert_close(network(tokens, 3), network(tokens)[:, 3:])


def test_one_hot_embeddings_stay_fixed_and_have_no_direct_path_to_the_answers():
    task, config = CASES["one hot"]
    training = Training(task, config, AttentionTrainingConfig(steps=3), 0, "cpu")
    list(training.run())
    network = training.network
    eye = torch.eye(15)
    assert torch.equal(network.W_E, eye[:8]) and torch.equal(network.W_U, eye[:, 8:])
    assert not bool(network.W_pos.any()) and not bool((network.W_E @ network.W_U).any())


@pytest.mark.parametrize("settings", [{"d_model": 8, "embedding": "one_hot"}, {}])
def test_a_width_goes_with_learned_embeddings_only(settings: dict[str, object]):
    with pytest.raises(ValueError, match="set d_model for learned embeddings and leave it out for one_hot"):
        AttentionModelConfig(n_heads=1, d_head=1, **settings)  # pyright: ignore


def test_training_is_a_function_of_the_seed_and_resumes_bit_for_bit():
    task, model = CASES["narrow"]
    config = AttentionTrainingConfig(steps=12, batch_size=16)

    def new(seed: int = 0) -> Training:
        return Training(task, model, config, seed, "cpu")

    whole, other, part = new(), new(1), new()
    losses = list(whole.run())
    list(other.run())
    steps = part.run()
    first = [next(steps) for _ in range(5)]
    again = new()
    again.restore({name: t.clone() for name, t in part.state().items()})
    assert first + list(again.run()) == losses
    assert all(torch.equal(a, b) for a, b in zip(whole.network.parameters(), again.network.parameters(), strict=True))
    assert not torch.equal(whole.network.W_Q, other.network.W_Q)
    assert losses[-1] < losses[0]


def test_scores_are_those_of_a_plain_count():
    task, network = SMALL, Network(CASES["narrow"][1], SMALL, generator("test", 1))
    tokens = task.batch(0, "test", 0, 50)
    answers, logits = task.answers(tokens)[:, 4:], network(tokens)[:, 4:].detach()
    right = logits.argmax(-1) == answers
    found = evaluate(network, task, tokens)
    assert found["accuracy"] == pytest.approx(float(right.float().mean()))
    assert found["least"] == pytest.approx(float(right.float().mean(0).min()))
    assert found["exact"] == pytest.approx(float(right.all(1).float().mean()))
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), answers.flatten())
    assert found["loss"] == pytest.approx(float(loss)) and found["floor"] == 0
