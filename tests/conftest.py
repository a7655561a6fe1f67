"""Shapes are checked in every test: jaxtyping annotations are enforced by beartype in `sae`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest
import torch
from jaxtyping import install_import_hook

install_import_hook("sae", "beartype.beartype")


@pytest.fixture(autouse=True)
def one_thread():
    """Tests run beside each other; more threads than cores would slow all of them down."""
    torch.set_num_threads(1)


@pytest.fixture
def shapes_unchecked() -> Iterator[None]:
    """For what takes thousands of steps, most of whose time the checks would be: others check the same steps."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def shared_data() -> Path:
    """The optional folder with a small real model and text; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("SAE_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder}; set SAE_TEST_DATA to a folder that has it")
    return folder


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Random transformers of a few thousand parameters in folders of their own, with word tokenizers.

    ``llama`` has rotary positions and no pad token; ``gpt2`` has learned positions and a BOS whose id is 0.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = [f"w{i}" for i in range(40)] + [".", "'", "s"]
    special = {
        "llama": {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"},
        "gpt2": {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"},
    }
    size = len(words) + 4
    llama = LlamaConfig(vocab_size=size, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
                        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=32,
                        bos_token_id=1, eos_token_id=2, initializer_range=0.3)  # fmt: skip
    gpt2 = GPT2Config(vocab_size=size, n_positions=32, n_embd=16, n_layer=2, n_head=2,
                      bos_token_id=0, eos_token_id=1, initializer_range=0.3)  # fmt: skip
    folders: dict[str, Path] = {}
    for name, model, config in (("llama", LlamaForCausalLM, llama), ("gpt2", GPT2LMHeadModel, gpt2)):
        folders[name] = tmp_path_factory.mktemp(name)
        torch.manual_seed(0)
        model(config).save_pretrained(folders[name])
        vocabulary = {word: i for i, word in enumerate([*special[name].values(), *words])}
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special[name]).save_pretrained(folders[name])
    return folders
