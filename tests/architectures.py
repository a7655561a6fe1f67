"""Random transformers of a few thousand parameters, one of every architecture that tests need, with word tokenizers."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from sae.model.hooked import Model

ARCHITECTURES = {
    "gpt2": "GPT-2",
    "neox": "GPT-NeoX",
    "llama": "Llama",
    "gemma2": "Gemma 2",
    "gemma3": "Gemma 3",
    "qwen3": "Qwen 3",
    "opt": "OPT",
    "opt_projected": "OPT, narrower embedding",
    "phi": "Phi",
    "mistral": "Mistral",
    "mamba": "Mamba",
    "mixtral": "Mixtral",
    "bert": "BERT",
    "t5": "T5",
}
"""The architectures of docs/architectures.md, with the names that it shows."""
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
N_WORDS = 43
_SIZE = {"vocab_size": N_WORDS + len(SPECIAL), "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
_BLOCKS = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 32}
_GATED = {**_BLOCKS, "num_key_value_heads": 2, "intermediate_size": 24, "head_dim": 8}


def _settings(name: str) -> tuple[str, dict[str, Any]]:
    """The name of the class of a model's config in transformers, and what is set in it."""
    plain = {**_BLOCKS, "intermediate_size": 24}
    projected = {"word_embed_proj_dim": 8, "do_layer_norm_before": False}
    seq2seq = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 2}
    multihead = {name: value for name, value in _GATED.items() if name != "head_dim"}
    experts = {"num_experts": 4, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 24}
    return {
        "gpt2": ("GPT2Config", {"n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 2}),
        "llama": ("LlamaConfig", _GATED),
        "gemma2": ("Gemma2Config", _GATED),
        "gemma3": ("Gemma3TextConfig", _GATED),
        "olmo2": ("Olmo2Config", multihead),
        "opt": ("OPTConfig", {**_BLOCKS, "ffn_dim": 24}),
        "opt_projected": ("OPTConfig", {**_BLOCKS, "ffn_dim": 24, **projected}),
        "neox": ("GPTNeoXConfig", plain),
        "phi": ("PhiConfig", plain),
        "qwen3": ("Qwen3Config", _GATED),
        "mistral": ("MistralConfig", _GATED),
        "bert": ("BertConfig", plain),
        "t5": ("T5Config", seq2seq),
        "mamba": ("MambaConfig", {"hidden_size": 16, "state_size": 4, "num_hidden_layers": 2}),
        "qwen2moe": (
            "Qwen2MoeConfig",
            {**multihead, **experts, "mlp_only_layers": [1]},
        ),
        "lfm2": ("Lfm2Config", {**_GATED, "layer_types": ["conv", "full_attention"], "block_ff_dim": 24}),
        "mixtral": ("MixtralConfig", {**_GATED, "num_local_experts": 4}),
    }[name]


def write_model(name: str, folder: Path) -> Path:
    """Saves a model with random weights, whose norms have unequal gains, and returns its folder."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    config, settings = _settings(name)
    auto = {"bert": transformers.AutoModelForMaskedLM, "t5": transformers.AutoModelForSeq2SeqLM}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        loader = auto.get(name, transformers.AutoModelForCausalLM)
        model = loader.from_config(getattr(transformers, config)(**{**_SIZE, **settings}))
        for parameter, value in model.named_parameters():
            if value.dim() > 1:
                torch.nn.init.normal_(value, std=0.2)
            elif "norm" in parameter.lower() or "ln_" in parameter:
                value.data.add_(torch.randn_like(value) * 0.5)
    model.save_pretrained(folder)
    words = [*SPECIAL.values(), *(f"w{i}" for i in range(N_WORDS))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL).save_pretrained(folder)
    return folder


@cache
def tiny(name: str) -> Model:
    """A model of an architecture, made once."""
    with TemporaryDirectory() as folder:
        return Model.boot(str(write_model(name, Path(folder))))
