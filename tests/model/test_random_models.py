"""Models with random weights of published shapes: the same on every machine, and like any other to the rest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

from pipelines.config.tables import RuntimeTable
from pipelines.runner import execution
from sae.model import loading
from sae.model.hooked import Model
from sae.model.loading import load_tokenizer, local_config
from sae.model.placement import run_models_on
from sae.model.random_models import SHAPES, random_config
from sae.registry import UserError

TINY = "random:gpt2-tiny"


@pytest.fixture
def own_device() -> Iterator[None]:
    yield
    run_models_on(None)


def weights_hash(model: Model) -> str:
    digest = hashlib.sha256()
    for name, weight in sorted(model.bridge.original_model.state_dict().items()):
        digest.update(name.encode() + weight.numpy().tobytes())
    return digest.hexdigest()


def test_weights_follow_from_the_name_and_leave_torch_as_it_was():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = Model.boot(TINY)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert weights_hash(first) == weights_hash(Model.boot(TINY))
    assert first.name == TINY and first.no_logits is None and first.can_fuse("blocks.1.hook_resid_post")
    assert not first.bridge.original_model.training


def test_dtype_and_tokenizer():
    model, tokenizer = Model.boot(TINY, dtype="bfloat16"), load_tokenizer(TINY)
    assert next(model.bridge.original_model.parameters()).dtype == torch.bfloat16
    ids = tokenizer("Zoë said:\n no", add_special_tokens=False)["input_ids"]
    assert len(ids) == len("Zoë said:\n no".encode()) and tokenizer.decode(ids) == "Zoë said:\n no"
    assert tokenizer.bos_token_id == 256 < model.d_vocab


@pytest.mark.parametrize("shape", list(SHAPES))
def test_a_shape_is_that_of_its_model(shape: str):
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM

    config = random_config(f"random:{shape}")
    with init_empty_weights():
        model: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    model.tie_weights()
    expected = {"gpt2-small": 124e6, "pythia-160m": 162e6, "pythia-1b": 1012e6, "llama-3.2-1b": 1236e6,
                "gemma-2-2b": 2614e6, "gpt2-tiny": 0.2e6}[shape]  # fmt: skip
    assert model.num_parameters() == pytest.approx(expected, rel=0.01 if shape != "gpt2-tiny" else 0.5)
    assert type(model).__name__ == config["architectures"][0]


def test_an_unknown_shape_is_refused():
    with pytest.raises(UserError, match=r"model = 'random:gpt2-smal': 'gpt2-smal' is not .* did you mean 'gpt2-small'"):
        Model.boot("random:gpt2-smal")
    assert local_config("random:gpt2-small")["n_layer"] == 12


def test_a_model_spread_over_devices_gives_the_same(
    tiny_models: dict[str, Path], own_device: None, monkeypatch: pytest.MonkeyPatch
):
    """Without a GPU, all layers are on the CPU."""
    boot, asked = TransformerBridge.boot_transformers, list[dict[str, Any]]()

    def noted(*args: Any, **options: Any) -> Any:
        asked.append(options)
        return boot(*args, **options)

    monkeypatch.setattr(TransformerBridge, "boot_transformers", noted)
    tokens = torch.randint(5, 40, (2, 9))
    attended = torch.ones_like(tokens).bool()
    hooks = ["blocks.0.hook_resid_post", "blocks.1.hook_mlp_out"]
    alone = Model.boot(str(tiny_models["llama"])).activations_at(tokens, attended, hooks)
    execution(RuntimeTable(device="cpu", model_device="auto"))
    spread = Model.boot(str(tiny_models["llama"]))
    assert spread.device == "cpu" and asked[-1]["device_map"] == "auto" and "device" not in asked[-1]
    assert all(torch.equal(a, b) for a, b in zip(alone, spread.activations_at(tokens, attended, hooks), strict=True))
    with pytest.raises(UserError, match="such a model runs on one device"):
        Model.boot(TINY)


def test_a_device_that_is_not_there_is_refused(own_device: None):
    with pytest.raises(UserError, match=r"runtime\.model_device = 'cuda:77': no such device"):
        execution(RuntimeTable(device="cpu", model_device="cuda:77"))


def test_a_gated_model_says_what_to_do(monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError("You are trying to access a gated repo.\nMake sure to have access to it. 401 Client Error.")

    monkeypatch.setattr("transformer_lens.model_bridge.TransformerBridge.boot_transformers", refuse)
    with pytest.raises(UserError, match="accept the model's licence on its page, and set HF_TOKEN"):
        loading.load_bridge("google/gemma-2-2b", "cpu", torch.float32, None)
