"""Names of hook points: those that a model has, those that a user may have meant, and limits from a model's config."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from typing import Any

from sae.registry import UserError

_BLOCK = re.compile(r"(?:[a-z_]+\.)*(?:layers?|h|blocks?)\.(\d+)(?:\.([\w.]+))?")
"""A block of a Hugging Face model, such as ``model.layers.3``, and a part of it."""
_PARTS = {
    None: ("hook_resid_post", "hook_out"),
    "mlp": ("hook_mlp_out", "mlp.hook_out"),
    "self_attn": ("hook_attn_out", "attn.hook_out"),
    "input_layernorm": ("ln1.hook_out",),
}
"""The hook points of a block at which the outputs of its parts are, TransformerLens' older name first."""
_SAME_PART = {
    "feed_forward": "mlp", "ffn": "mlp", "block_sparse_moe": "mlp",
    "attn": "self_attn", "attention": "self_attn", "self_attention": "self_attn",
    "ln_1": "input_layernorm",
}  # fmt: skip
"""Other names of the parts."""
_USUAL = ("hook_resid_post", "hook_resid_pre", "hook_attn_out", "hook_mlp_out", "mlp.hook_post", "attn.hook_z")
"""The hook points of a block that are used most."""
_EMBEDDING = re.compile(r"(?:[a-z_]+\.)*(?:embed_tokens|wte|embed_in|word_embeddings)")
_ON_STREAM = re.compile(
    r"(embed\.hook_out|hook_embed|blocks\.\d+\.(hook_(resid_\w+|(attn|mlp)_out|out)|(attn|mlp|ln\d)\.hook_out))"
)
"""The hook points of the residual stream and of what is added to it."""
_WIDTH = ("hidden_size", "n_embd", "d_model")
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers")
_CONTEXT = (
    "n_positions", "max_position_embeddings", "max_context_length", "seq_length", "max_seq_len",
    "max_sequence_length", "n_ctx",
)  # fmt: skip
N_NEAREST = 5
"""The number of hook points that are named where one does not exist."""


def check_hook_name(setting: str, hook: str, config: Mapping[str, Any]) -> None:
    """Raises `UserError` for a name that no hook point of a model has, as far as its ``config.json`` tells.

    `setting` is what gives the name; `config` is empty where it is unknown.
    """
    meant = hook if hook.rpartition(".")[2].startswith("hook_") else next(iter(_meant(hook)), None)
    if meant is None:
        number = re.search(r"\d+", hook)
        usual = [f"blocks.{number[0] if number else 0}.{name}" for name in _USUAL]
        [nearest] = difflib.get_close_matches(hook, usual, 1, cutoff=0.0)
        raise UserError(f"{setting} = {hook!r}: not the name of a hook point; give one such as {nearest!r}")
    block = re.match(r"blocks\.(\d+)\.", meant)
    n_layers = None if config.get("is_encoder_decoder") else _first(config, _LAYERS)
    if block and n_layers is not None and int(block[1]) >= n_layers:
        last = meant.replace(block[0], f"blocks.{n_layers - 1}.", 1)
        raise UserError(
            f"{setting} = {hook!r}: the model has {n_layers} blocks, 0 to {n_layers - 1}; use for example {last!r}"
        )
    if meant != hook:
        raise UserError(
            f"{setting} = {hook!r}: a module of Hugging Face, not a hook point; for its output use {meant!r}"
        )


def unknown_hook(hook: str, known: Collection[str], model: str) -> str:
    """One line that says that a model has no such hook point, with what may have been meant."""
    meant = next((name for name in _meant(hook) if name in known), None)
    if meant is not None:
        return f"{hook!r}: a module of Hugging Face, not a hook point of {model}; for its output use {meant!r}"
    nearest = difflib.get_close_matches(hook, known, N_NEAREST, cutoff=0.0)
    *others, last = map(repr, nearest)
    return f"{hook!r} is not a known hook point of {model}: did you mean {', '.join(others)} or {last}?"


def context_limit(config: Mapping[str, Any]) -> int | None:
    """The longest row that a model takes, from its Hugging Face config; None where that names none, as for state-space
    models and relative positions."""
    return _first(config, _CONTEXT)


def width_of(hook: str, config: Mapping[str, Any]) -> int | None:
    """The width of the activations at a hook point of the residual stream or of what is added to it, from a model's
    Hugging Face config; None elsewhere, and where the config does not say."""
    return _first(config, _WIDTH) if _ON_STREAM.fullmatch(hook) else None


def _meant(module: str) -> list[str]:
    """The hook points, by their names in TransformerLens, at which the output of a Hugging Face module may be."""
    if _EMBEDDING.fullmatch(module):
        return ["hook_embed", "embed.hook_out"]
    block = _BLOCK.fullmatch(module)
    if block is None:
        return []
    return [f"blocks.{block[1]}.{name}" for name in _PARTS.get(_SAME_PART.get(block[2], block[2]), ())]


def _first(config: Mapping[str, Any], names: Collection[str]) -> int | None:
    """The first of several entries that a config, or the part of it that is about text, has."""
    nested = config.get("text_config")
    tables = [config, *([nested] if isinstance(nested, Mapping) else [])]
    values = (table.get(name) for table in tables for name in names)
    return next((value for value in values if type(value) is int and value > 0), None)
