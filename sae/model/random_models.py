"""Models of the shapes of published ones with random weights, which need no download: ``random:gpt2-small``.

They are for rehearsals and benchmarks of real size, and as controls: what a score gives on a random model, training the
model has not brought about (Heap et al. 2025, 'Sparse autoencoders can interpret randomly initialized transformers').
Their tokenizer reads text byte by byte.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from sae.numerics.seeds import derive
from sae.registry import UserError, unknown

PREFIX = "random:"
"""What a name of a random model begins with."""
END_OF_TEXT = "<|endoftext|>"
_LAST_BYTE = 256
_GPT_NEOX: dict[str, Any] = {"model_type": "gpt_neox", "architectures": ["GPTNeoXForCausalLM"], "rotary_pct": 0.25,
                             "max_position_embeddings": 2048, "vocab_size": 50304}  # fmt: skip
SHAPES: Mapping[str, Mapping[str, Any]] = {
    "gpt2-tiny": {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": 64, "n_layer": 3, "n_head": 4,
                  "n_positions": 256, "vocab_size": 512},
    "gpt2-small": {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": 768, "n_layer": 12,
                   "n_head": 12, "n_positions": 1024, "vocab_size": 50257},
    "pythia-160m": {**_GPT_NEOX, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
                    "intermediate_size": 3072},
    "pythia-1b": {**_GPT_NEOX, "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 8,
                  "intermediate_size": 8192},
    "llama-3.2-1b": {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 2048,
                     "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64,
                     "intermediate_size": 8192, "vocab_size": 128256, "max_position_embeddings": 131072,
                     "tie_word_embeddings": True},
    "gemma-2-2b": {"model_type": "gemma2", "architectures": ["Gemma2ForCausalLM"], "hidden_size": 2304,
                   "num_hidden_layers": 26, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
                   "intermediate_size": 9216, "vocab_size": 256000, "max_position_embeddings": 8192},
}  # fmt: skip
"""The Hugging Face config of each shape."""


def is_random(name: str) -> bool:
    """Whether a name is that of a random model."""
    return name.startswith(PREFIX)


def random_config(name: str) -> dict[str, Any]:
    """The Hugging Face config of a random model. Raises `UserError` where there is no such shape."""
    shape = name.removeprefix(PREFIX)
    if shape not in SHAPES:
        raise UserError(f"model = {name!r}: {unknown(shape, list(SHAPES), 'shape of a random model')}")
    return {**SHAPES[shape], "bos_token_id": _LAST_BYTE, "eos_token_id": _LAST_BYTE}


def random_hf_model(name: str, attention: str = "eager") -> Any:
    """A random model as a Hugging Face model on the CPU, in float32, with an attention kernel that transformers knows.

    Its weights are those of the architecture's initialisation, drawn by a seed of the name.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**random_config(name))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive("random model", name))
        return AutoModelForCausalLM.from_config(config, attn_implementation=attention)


def boot_random(name: str, device: str, dtype: torch.dtype) -> Any:
    """A random model as a TransformerLens Bridge. Its weights are the same on every device."""
    from transformer_lens.model_bridge import TransformerBridge

    with _folder(name) as folder, torch.random.fork_rng(devices=[]):
        model = random_hf_model(name).to(dtype)
        bridge: Any = TransformerBridge.boot_transformers(str(folder), device="cpu", dtype=dtype, hf_model=model)
    return bridge.to(device=device, print_details=False)


def random_tokenizer(name: str) -> Any:
    """The tokenizer of a random model: a token for every byte, and one for the end of a text."""
    from transformers import AutoTokenizer

    with _folder(name) as folder:
        return AutoTokenizer.from_pretrained(folder)


@contextmanager
def _folder(name: str) -> Generator[Path]:
    """A Hugging Face folder of a random model, without weights."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: i for i, character in enumerate(alphabet)} | {END_OF_TEXT: _LAST_BYTE}
    tokenizer: Any = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "config.json").write_text(json.dumps(random_config(name)), encoding="utf-8")
        (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
        tokenizer.save(str(folder / "tokenizer.json"))
        yield folder
