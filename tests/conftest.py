"""Shapes are checked in every test: jaxtyping annotations are enforced by beartype in `sae`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest
import torch
from jaxtyping import install_import_hook

from benchmarks.isolated import installed, stand_in_for_torchvision

install_import_hook("sae", "beartype.beartype")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item):
    """A test marked ``peer("sae_lens")`` compares with that library: without it, the test is skipped, or fails where
    `SAE_PEERS` is set, as `make peers` sets it."""
    libraries = [name for marker in item.iter_markers("peer") for name in marker.args]
    for name in libraries:
        if not installed(name):
            end = pytest.fail if os.environ.get("SAE_PEERS") else pytest.skip
            end(f"{name} is not installed: nothing to compare with")
    if libraries:
        stand_in_for_torchvision()


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


@pytest.fixture
def older_hub(
    tmp_path_factory: pytest.TempPathFactory, tiny_models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> dict[str, torch.Tensor]:
    """A hub that has one model alone, ``NeelNanda/SoLU_tiny`` of one layer; its state dict."""
    folder = tmp_path_factory.mktemp("hub")
    config = {"d_model": 8, "n_layers": 1, "d_mlp": 12, "d_head": 4, "n_heads": 2, "n_ctx": 16, "d_vocab": 47,
              "act_fn": "solu_ln", "attn_only": False, "normalization": "LN",
              "tokenizer_name": str(tiny_models["gpt2"])}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    shapes: dict[str, tuple[int, ...]] = {
        "embed.W_E": (47, 8), "pos_embed.W_pos": (16, 8), "ln_final.w": (8,), "ln_final.b": (8,),
        "unembed.W_U": (8, 47), "blocks.0.mlp.W_in": (8, 12), "blocks.0.mlp.b_in": (12,),
        "blocks.0.mlp.W_out": (12, 8), "blocks.0.mlp.b_out": (8,), "blocks.0.mlp.ln.w": (12,),
        "blocks.0.mlp.ln.b": (12,), "blocks.0.attn.W_O": (2, 4, 8), "blocks.0.attn.b_O": (8,),
        **{f"blocks.0.attn.W_{n}": (2, 8, 4) for n in "QKV"}, **{f"blocks.0.attn.b_{n}": (2, 4) for n in "QKV"},
        **{f"blocks.0.ln{i}.{p}": (8,) for i in (1, 2) for p in "wb"},
    }  # fmt: skip
    draw = torch.Generator().manual_seed(0)
    state = {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}
    torch.save(state, folder / "model_final.pth")

    def download(repo: str, file: str) -> str:
        assert repo == "NeelNanda/SoLU_tiny"
        return str(folder / file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", lambda self, repo: ["config.json", "model_final.pth"])
    return state
