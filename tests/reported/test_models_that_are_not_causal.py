"""Encoders and encoder-decoders: activations alone, since their logits do not predict the next token."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import sae
from sae.activations.corpus import PositionSelection
from sae.metric import Case, gather_evidence
from sae.metrics.downstream import Config as Downstream
from sae.model.hooked import Model
from sae.model.loading import load_tokenizer
from sae.model.next_token import sees_later_tokens, unlike_a_causal_model
from sae.registry import UserError
from sae.sources.transformer import Config
from tests.streaming import build, columns, words
from tests.texts import any_dictionary, text_for

SPECIAL = {
    "encoder": {"pad_token": "<pad>", "unk_token": "<unk>", "cls_token": "[CLS]", "sep_token": "[SEP]"},
    "encoder-decoder": {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"},
}
HOOKS = {"encoder": "blocks.0.hook_resid_post", "encoder-decoder": "encoder_blocks.0.hook_resid_post"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        BartConfig,
        BartForConditionalGeneration,
        BertConfig,
        BertForMaskedLM,
        PreTrainedTokenizerFast,
    )

    vocabulary = [*(f"w{i}" for i in range(40)), ".", "'", "s"]
    size: dict[str, Any] = {"vocab_size": len(vocabulary) + 4, "max_position_embeddings": 32}
    of_bert: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    of_bart: dict[str, Any] = {f"{part}_layers": 2 for part in ("encoder", "decoder")}
    of_bart |= {f"{part}_{field}": n for part in ("encoder", "decoder") for field, n in (("attention_heads", 2),)}
    of_bart |= {f"{part}_ffn_dim": 24 for part in ("encoder", "decoder")}
    torch.manual_seed(0)
    networks: dict[str, Any] = {
        "encoder": BertForMaskedLM(BertConfig(**size, **of_bert, num_attention_heads=2, initializer_range=0.3)),
        "encoder-decoder": BartForConditionalGeneration(BartConfig(**size, **of_bart, d_model=16, init_std=0.3)),
    }
    out = dict[str, Path]()
    for name, network in networks.items():
        out[name] = tmp_path_factory.mktemp(name)
        network.save_pretrained(out[name])
        ids = {word: i for i, word in enumerate([*SPECIAL[name].values(), *vocabulary])}
        tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL[name]).save_pretrained(out[name])
    return out


def settings(folder: Path, name: str, text: Path) -> dict[str, Any]:
    return {"model": str(folder), "hook": HOOKS[name], "text": str(text), "separator": "|", "context": 16,
            "heldout_share": 0.3, "bos": "none"}  # fmt: skip


@pytest.mark.parametrize("name", list(HOOKS))
def test_they_give_activations_and_no_loss(folders: Mapping[str, Path], tmp_path: Path, name: str):
    """Dictionaries of an encoder were ranked by a loss of predicting tokens that the model had read."""
    source = build(tmp_path / "s", **settings(folders[name], name, words(tmp_path / "text.txt", 60)))
    assert source.config.provides == frozenset() and source.model() is None and source.d_in == 16
    assert source.no_model is not None and "do not predict the next token: " in source.no_model
    d = any_dictionary()
    scores = Downstream().score(Case(d, gather_evidence(source, 50))).scalars
    assert len(scores) == 8 and all(value != value for value in scores.values())


@pytest.mark.parametrize("name", list(HOOKS))
def test_their_logits_are_refused_in_a_sentence(folders: Mapping[str, Path], name: str):
    """The loss of an encoder was far above that of a uniform guess, that of an encoder-decoder off by one token."""
    model = Model.boot(str(folders[name]))
    for read in (model.logits, model.losses):
        with pytest.raises(UserError, match="do not predict the next token, because") as error:
            read(text_for(model))
        assert "\n" not in str(error.value)


def test_causality_is_tested_where_the_name_of_the_class_does_not_tell(
    folders: Mapping[str, Path], tiny_models: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
):
    """A model with a causal name may still attend to later tokens."""
    monkeypatch.setattr("sae.model.hooked.unlike_a_causal_model", lambda names, is_encoder_decoder: None)
    for name in folders:
        assert "its logits depend on later tokens" in str(Model.boot(str(folders[name])).no_logits)
    for name in tiny_models:
        for dtype in ("float32", "bfloat16"):
            assert Model.boot(str(tiny_models[name]), dtype=dtype).no_logits is None


def test_rounding_is_no_dependence_on_later_tokens():
    """The test of causality allows for rounding and for logits of minus infinity, and finds a small dependence."""
    g = torch.Generator().manual_seed(0)
    table = torch.randn(50, 50, generator=g)
    table[:, 3] = -torch.inf

    def noisy(tokens: torch.Tensor) -> torch.Tensor:
        return table[tokens] * (1 + 1e-6 * torch.randn(1, tokens.shape[1], 50, generator=g))

    def leaky(tokens: torch.Tensor) -> torch.Tensor:
        return table[tokens] + 1e-2 * table[tokens[:, -1:], 4:5]

    assert not sees_later_tokens(noisy, 32, 50) and sees_later_tokens(leaky, 32, 50)
    assert not sees_later_tokens(noisy, 3, 50)


def test_what_a_config_tells():
    """Causal and multimodal models are not refused by their names."""
    for name in ("LlamaForCausalLM", "GPT2LMHeadModel", "LlavaForConditionalGeneration", "NativeModel"):
        assert unlike_a_causal_model([name], False) is None
    assert "BertForMaskedLM" in str(unlike_a_causal_model(["BertForMaskedLM"], False))
    assert "encoder-decoder" in str(unlike_a_causal_model(["T5ForConditionalGeneration"], True))


def test_a_splice_into_an_encoder_decoder_is_refused_in_a_sentence(folders: Mapping[str, Path]):
    """A splice into an encoder-decoder ended in an AssertionError, or took the positions of the other row."""
    d = any_dictionary()
    name = "encoder-decoder"
    model = Model.boot(str(folders[name]))
    with pytest.raises(UserError, match="an encoder-decoder reads two rows"), sae.splice(model, {HOOKS[name]: d}):
        pass
    encoder = Model.boot(str(folders["encoder"]))
    text = text_for(encoder)
    with sae.splice(encoder, {HOOKS["encoder"]: d}) as spliced:
        encoder.bridge(text.tokens)
    assert spliced.codes[HOOKS["encoder"]].read.shape == text.tokens.shape


def test_the_decoder_of_an_encoder_decoder_is_no_place_for_a_dictionary(folders: Mapping[str, Path]):
    """Activations of a decoder were stored under the token after theirs."""
    model = Model.boot(str(folders["encoder-decoder"]))
    assert model.width("encoder_blocks.1.hook_resid_post") == 16
    with pytest.raises(UserError, match="reads the text one position later"):
        model.width("decoder_blocks.1.hook_resid_post")


def test_the_framing_of_an_encoders_tokenizer_is_left_out(
    folders: Mapping[str, Path], tiny_models: Mapping[str, Path], tmp_path: Path
):
    """Dictionaries were trained on [CLS] and [SEP], though BOS and EOS were left out."""
    tokenizer = load_tokenizer(str(folders["encoder"]))
    framing = {tokenizer.pad_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id}
    assert set(PositionSelection.of(tokenizer, True).special) == framing and len(framing) == 3
    text = tmp_path / "text.txt"
    text.write_text("|".join(f"[CLS] w{i % 40} w{i % 7} . w{i % 11} [SEP]" for i in range(200)))
    source = build(tmp_path / "s", **settings(folders["encoder"], "encoder", text))
    assert not set(columns(source, "train")["token"].tolist()) & framing
    causal = load_tokenizer(str(tiny_models["gpt2"]))
    assert PositionSelection.of(causal, True).special == (0, 1, 2)


def test_a_plan_does_not_depend_on_what_was_downloaded(folders: Mapping[str, Path], tmp_path: Path):
    """Only the config of a local folder decides what is planned."""
    base = settings(folders["encoder"], "encoder", tmp_path / "text.txt")
    assert Config(**base).provides == frozenset()
    assert Config(**base | {"model": "google-bert/bert-base-cased"}).provides == {"model"}
