"""Wrong names of hook points, contexts and folders of models: one short line, when a run is planned where it can be."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.config.config import parse
from pipelines.plan import plan
from sae.activations import text_files
from sae.model import Model
from sae.model.hook_names import context_limit
from sae.model.loading import load_tokenizer
from sae.registry import UserError

LLAMA = {"num_hidden_layers": 2}


def planned(model: str | Path, **settings: Any) -> None:
    """Plans a run on a model; its text does not exist, which is looked at last."""
    source = {"kind": "transformer", "model": str(model), "hook": "blocks.1.hook_resid_post", "text": "absent.txt"}
    table = {"name": "s", "source": source | settings, "dictionary": {"kind": "relu", "n_latents": 8, "l1": 0.1}}
    plan(parse(table | {"report": {"best_by": "fvu"}}))


def refusal(call: Any, *given: Any, **settings: Any) -> str:
    with pytest.raises(UserError) as error:
        call(*given, **settings)
    message = str(error.value)
    assert "\n" not in message and len(message) < 400
    return message


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A local folder with the config of a model of two blocks."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(LLAMA))
    return tmp_path / "model"


@pytest.mark.parametrize(
    ("hook", "words"),
    [
        ("model.layers.1", "a module of Hugging Face, not a hook point; for its output use 'blocks.1.hook_resid_post'"),
        ("transformer.h.1", "use 'blocks.1.hook_resid_post'"),
        ("gpt_neox.layers.0", "use 'blocks.0.hook_resid_post'"),
        ("model.decoder.layers.1", "use 'blocks.1.hook_resid_post'"),
        ("transformer.h.1.mlp", "use 'blocks.1.hook_mlp_out'"),
        ("model.layers.1.self_attn", "use 'blocks.1.hook_attn_out'"),
        ("gpt_neox.layers.1.attention", "use 'blocks.1.hook_attn_out'"),
        ("model.layers.1.input_layernorm", "use 'blocks.1.ln1.hook_out'"),
        ("blocks.1", "use 'blocks.1.hook_resid_post'"),
        ("model.embed_tokens", "use 'hook_embed'"),
        ("transformer.wte", "use 'hook_embed'"),
        ("model.layers.7", "the model has 2 blocks, 0 to 1; use for example 'blocks.1.hook_resid_post'"),
        ("blocks.2.hook_resid_post", "the model has 2 blocks, 0 to 1; use for example 'blocks.1.hook_resid_post'"),
        ("blocks.1.resid_post", "not the name of a hook point; give one such as 'blocks.1.hook_resid_post'"),
        ("layer 3", "not the name of a hook point; give one such as 'blocks.3"),
        ("", "not the name of a hook point; give one such as 'blocks.0"),
    ],
)
def test_a_plan_refuses_hooks_that_the_model_cannot_have(folder: Path, hook: str, words: str):
    """`sae plan` accepted any hook, and `sae run` answered with the names of all hook points, 9,000 characters."""
    message = refusal(planned, folder, hook=hook)
    assert message.startswith(f"source.hook = {hook!r}: ") and words in message
    assert refusal(planned, folder, target=hook).startswith(f"source.target = {hook!r}: ")


def test_without_a_local_config_no_number_of_blocks_is_assumed():
    """A plan does not depend on what has been downloaded."""
    assert "use 'blocks.99.hook_resid_post'" in refusal(planned, "owner/name", hook="model.layers.99")
    assert "does not exist" in refusal(planned, "owner/name", hook="blocks.99.hook_resid_post")


def test_the_nearest_hook_points_of_a_model(tiny_models: Mapping[str, Path]):
    """Five names, among them the one that was meant; names of modules are translated to those that the model has."""
    model = Model.boot(str(tiny_models["gpt2"]))
    message = refusal(model.check_hook, "blocks.1.hook_resid_pst")
    assert "did you mean 'blocks.1.hook_resid_post', " in message and message.count("'blocks") == 6
    assert "'x' is not a known hook point" in refusal(model.check_hook, "x")
    for module, hook in (("transformer.h.1", "hook_resid_post"), ("h.0.mlp", "hook_mlp_out"), ("h.1.ln_1", "ln1.")):
        message = refusal(model.check_hook, module)
        meant = message.rpartition("use ")[2].strip("'")
        assert hook in meant and meant in model.hooks
    assert "did you mean" in refusal(model.check_hook, "transformer.h.7.mlp")


def test_folders_that_hold_no_model(tmp_path: Path, tiny_models: Mapping[str, Path]):
    """`model = "../.."` hashed whole trees; a folder without a tokenizer was answered with 300 characters on slow
    tokenizers."""
    assert "a folder without a config.json; give a Hugging Face folder" in refusal(planned, tmp_path)
    shutil.copytree(tiny_models["llama"], tmp_path / "m")
    for file in (tmp_path / "m").glob("*token*"):
        file.unlink()
    for load in (Model.boot, load_tokenizer):
        message = refusal(load, str(tmp_path / "m"))
        assert f"its folder has no tokenizer; save it there with tokenizer.save_pretrained('{tmp_path}/m')" in message


@pytest.mark.parametrize("name", ["model", "text"])
def test_folders_of_too_many_files(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch):
    """They are refused by their number, before a file is read."""
    monkeypatch.setattr(text_files, "MOST_FILES", 3)
    monkeypatch.setattr("pipelines.plan.content_hash", lambda path, field: pytest.fail("a file was read"))  # pyright: ignore
    for i in range(3):
        (folder / f"{i}.bin").touch()
    settings = {"model": str(folder), name: str(folder)}
    assert f"source.{name} = '{folder}': a folder of more than 3 files" in refusal(planned, **settings)


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        ({"max_position_embeddings": 64}, 64),
        ({"n_positions": 32, "n_ctx": 16}, 32),
        ({"text_config": {"max_position_embeddings": 8}}, 8),
        ({"max_position_embeddings": None, "max_length": 20}, None),
        ({"state_size": 16}, None),
    ],
)
def test_the_context_of_a_config(config: dict[str, Any], limit: int | None):
    assert context_limit(config) == limit


def test_a_model_without_a_limit(tmp_path: Path, tiny_models: Mapping[str, Path]):
    """The 2048 tokens that TransformerLens assumes where a config names none were told as the model's limit."""
    from transformers import BloomConfig, BloomForCausalLM

    torch.manual_seed(0)
    config = BloomConfig(vocab_size=48, hidden_size=16, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=2)
    BloomForCausalLM(config).save_pretrained(tmp_path)
    for file in tiny_models["llama"].glob("token*"):
        shutil.copy(file, tmp_path)
    model = Model.boot(str(tmp_path))
    assert model.bridge.cfg.n_ctx == 2048 and model.n_ctx is None
    model.check_context(5000)
    limited = Model.boot(str(tiny_models["llama"]))
    assert limited.n_ctx == 32 and "takes at most 32 tokens" in refusal(limited.check_context, 33)
