"""The tokenizer, the network and the training of small language models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sae.activations.text import Text
from sae.model.hooked import Model
from sae.model.native import write_native, write_settings
from sae.registry import UserError
from sae.source import Split
from sae.toys.language.network import LanguageModelConfig, LanguageNetwork
from sae.toys.language.saved import heldout_scores
from sae.toys.language.tokens import TokenizerConfig, make_tokenizer, streams
from sae.toys.language.training import LanguageTraining, LanguageTrainingConfig, kept_at_random, stream_losses
from tests.toys.language.texts import stories

FORMS: dict[str, dict[str, Any]] = {
    "gelu": {},
    "relu rotary": {"activation": "relu", "positions": "rotary"},
    "swiglu": {"activation": "swiglu", "mlp_ratio": 1.5},
    "solu": {"activation": "solu"},
    "attention only": {"mlp_ratio": 0, "n_layers": 2},
}
TRAINING = LanguageTrainingConfig(steps=6, batch_size=4, measure_every=4, mlp_dropout=0.2, dropout=0.1)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Text:
    return Text(str(stories(tmp_path_factory.mktemp("text") / "stories.txt")), separator="|")


def small(**settings: Any) -> LanguageModelConfig:
    table: dict[str, Any] = {"d_model": 16, "n_heads": 2, "n_ctx": 12, **settings}
    return LanguageModelConfig(**table)


@pytest.mark.parametrize("form", FORMS)
def test_the_native_model_has_the_networks_logits(tmp_path: Path, text: Text, form: str):
    config = small(**FORMS[form])
    write_settings(tmp_path, config.native(0))
    tokenizer = make_tokenizer(TokenizerConfig(n_tokens=280), text, tmp_path)
    network = LanguageNetwork(config, len(tokenizer)).draw(torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in network.parameters():  # biases and gains too
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        write_native(tmp_path, config.native(len(tokenizer)), network.state_dict())
        model, tokens = Model.boot(str(tmp_path)), torch.arange(24).reshape(2, 12)
        torch.testing.assert_close(model.bridge(tokens), network(tokens), rtol=1e-4, atol=1e-4)
    assert (model.n_ctx, model.d_vocab, model.no_logits) == (12, len(tokenizer), None)
    if config.d_mlp:
        assert model.width("blocks.0.mlp.hook_post") == config.d_mlp


def test_a_damaged_folder_is_refused(tmp_path: Path, text: Text):
    config = small()
    write_settings(tmp_path, config.native(0))
    tokenizer = make_tokenizer(TokenizerConfig(n_tokens=280), text, tmp_path)
    network = LanguageNetwork(config, len(tokenizer) + 1)
    write_native(tmp_path, config.native(len(tokenizer)), network.state_dict())
    with pytest.raises(UserError, match="cannot be loaded"):
        Model.boot(str(tmp_path))


def test_the_tokenizer_is_the_same_each_time_and_writes_every_text(tmp_path: Path, text: Text):
    written: list[bytes] = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        write_settings(folder, small().native(0))
        tokenizer = make_tokenizer(TokenizerConfig(n_tokens=300), text, folder)
        written.append((folder / "tokenizer.json").read_bytes())
    assert written[0] == written[1] and len(tokenizer) == 300
    for other in ("Lily had a ball.", "überall 木\n\t\x00"):
        assert tokenizer.decode(tokenizer(other)["input_ids"], clean_up_tokenization_spaces=False) == other


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, text: Text) -> LanguageTraining:
    """Training of a small model that has not begun."""
    folder = tmp_path_factory.mktemp("tokenizer")
    write_settings(folder, small().native(0))
    tokenizer = make_tokenizer(TokenizerConfig(n_tokens=300), text, folder)
    data = streams(text, tokenizer, 0, 0.3)
    return LanguageTraining(small(), TRAINING, data, len(tokenizer), tokenizer.bos_token_id, 0, "cpu")


def again(made: LanguageTraining, config: LanguageTrainingConfig = TRAINING) -> LanguageTraining:
    return LanguageTraining(small(), config, made.data, made.network.embed.num_embeddings, made.bos, 0, "cpu")


def test_a_restored_training_ends_with_the_same_bits(made: LanguageTraining):
    whole, first, second = again(made), again(made), again(made)
    for _ in whole.run():
        pass
    steps = first.run()
    for _ in range(4):
        next(steps)
    state = {name: value.clone() for name, value in first.state().items()}
    next(steps)  # the state is a copy
    second.restore(state)
    assert second.step == 4
    for _ in second.run():
        pass
    for ended in (second, whole):
        assert ended.step == TRAINING.steps
    of_whole, of_second = whole.state(), second.state()
    assert of_whole.keys() == of_second.keys()
    assert all(torch.equal(value, of_second[name]) for name, value in of_whole.items())


def test_every_epoch_sees_each_token_but_the_first_and_last_few_once(made: LanguageTraining):
    n, size, length = made.n_ctx, TRAINING.batch_size, 200
    counted: dict[Split, NDArray[np.int32]] = {**made.data, "train": np.arange(length, dtype=np.int32)}
    training = LanguageTraining(small(), TRAINING, counted, 300, 0, 0, "cpu")
    n_rows = length // n - 1
    rows = torch.cat([training.batch(step) for step in range(-(-2 * n_rows // size))])
    assert bool((rows[:, 0] == 0).all())
    for epoch in (0, 1):
        seen = rows[epoch * n_rows :][:n_rows, 1:]
        assert seen.unique().numel() == seen.numel() == n_rows * n
        assert bool((seen.diff(dim=1) == 1).all()) and not bool((seen[:, 0].diff() == n).all())
    assert not torch.equal(rows[:n_rows, 1].sort().values, rows[n_rows : 2 * n_rows, 1].sort().values)


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_dropout_keeps_the_mean_and_drops_its_share_independently(share: float):
    x = torch.ones(301, 401)
    factors = kept_at_random(x, share, torch.Generator().manual_seed(0))
    dropped = (factors == 0).double()
    assert float(factors.double().mean()) == pytest.approx(1, abs=0.01)
    assert float(dropped.mean()) == pytest.approx(share, abs=0.006)
    flat = dropped.flatten()
    for apart in (1, 2, 3, 4, 401):  # the numbers that share 64 bits, too
        both = float((flat[:-apart] * flat[apart:]).mean())
        assert both == pytest.approx(share**2, abs=0.008)


def test_the_losses_of_a_stream_are_those_of_its_rows(made: LanguageTraining):
    stream, n = made.data["test"][:30], made.n_ctx
    losses = stream_losses(made.network, stream, made.bos, n)
    assert losses.shape == (30,)
    for start in (0, n, 2 * n):
        row = torch.from_numpy(stream[start : start + n].astype(np.int64))
        tokens = torch.cat([torch.tensor([made.bos]), row])[None]
        with torch.no_grad():
            log_probs = made.network(tokens[:, :-1]).log_softmax(-1)[0]
        torch.testing.assert_close(losses[start : start + n], -log_probs.gather(-1, row[:, None]).squeeze(-1))


def test_tokens_of_overlapping_rows_have_some_before_them(made: LanguageTraining):
    stream, n = made.data["test"][:50], made.n_ctx
    apart, overlapping = (stream_losses(made.network, stream, made.bos, n, before) for before in (0, 8))
    assert torch.equal(overlapping[:n], apart[:n]) and overlapping.shape == (50,)
    for start in range(4, 38, 4):
        row = torch.cat([torch.tensor([made.bos]), torch.from_numpy(stream[start : start + n].astype(np.int64))])[None]
        with torch.no_grad():
            log_probs = made.network(row[:, :-1]).log_softmax(-1)[0]
        expected = -log_probs.gather(-1, row[0, 1:, None]).squeeze(-1)[8:]
        torch.testing.assert_close(overlapping[start + 8 : start + n], expected)


def test_it_learns_and_the_best_state_is_kept(made: LanguageTraining, shapes_unchecked: None):
    config = LanguageTrainingConfig(steps=80, batch_size=16, lr=1e-2, measure_every=20)
    training = again(made, config)
    losses = list(training.run())
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) - 2
    training.network.load_state_dict(training.best)
    data = training.data
    loss = float(stream_losses(training.network, data["choose"], training.bos, training.n_ctx).mean())
    assert loss == pytest.approx(training.best_loss) and training.best_step % 20 == 0
    scores = heldout_scores(training.network, data["train"], data["test"], training.bos, training.n_ctx)
    assert scores["trigram"] < scores["bigram"] < scores["unigram"] and scores["model"] < scores["bigram"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"n_heads": 3}, "n_heads = 3: does not divide d_model = 16"),
        ({"n_heads": 16, "positions": "rotary"}, "n_heads = 16: heads of odd width 1"),
        ({"mlp_ratio": 0.01}, "mlp_ratio = 0.01: gives no neuron"),
    ],
)
def test_impossible_models_are_refused(settings: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        small(**settings)
