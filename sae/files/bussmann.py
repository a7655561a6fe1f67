"""Bussmann's BatchTopK and matryoshka_sae: ``sae.pt`` next to ``config.json``, whose values may be text.

    z = ReLU((x' - b_dec) W_enc), for the selected latents,    x_hat = z W_dec + b_dec

on standardised activations x' where ``input_unit_norm`` is set. The vanilla SAE adds a bias `b_enc`; the TopK kinds
have one but do not add it, unless ``use_encoder_bias`` is set; the JumpReLU, whose thresholds are stored as logarithms,
encodes x' instead of x' - b_dec. Where a BatchTopK has no threshold, the k largest of each sample are kept, as it does
on a batch of one.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from sae.dictionary import Dictionary
from sae.files.layer import Layer
from sae.files.weights_file import (
    LoadOptions,
    OpenableDictionary,
    WeightsFile,
    is_true,
    source_card,
    valid_k,
    whole_number,
)

NAME = "bussmann"
_LOG = "jumprelu.log_threshold"


def find(file: WeightsFile) -> list[OpenableDictionary]:
    config = file.json("config.json")
    if not file.has("W_enc", "W_dec", "b_enc", "b_dec") or not {"act_size", "dict_size"} <= config.keys():
        return []
    return [OpenableDictionary("", partial(_read, file, config))]


def _read(file: WeightsFile, config: Mapping[str, Any], _: LoadOptions) -> Dictionary:
    w = file.weights()
    layer = Layer(w.take("W_enc", "d", "m"), w.take("W_dec", "m", "d"), w.take("b_enc", "m"), w.take("b_dec", "d"))
    m = len(layer.b_enc)
    threshold: Tensor | None = w.take("threshold", *(["m"] * file.n_axes("threshold"))) if "threshold" in w else None
    logs = w.take(_LOG, "m") if _LOG in w else None
    w.drop("num_batches_not_active")
    w.finish("Bussmann's autoencoders")
    kind, settings = _kind(file, config), dict[str, Any]()
    if config.get("activation", "relu") != "relu" or is_true(config.get("tied_weights")):
        raise file.error(f"activation {str(config.get('activation'))[:40]!r} or tied weights are not supported")
    if kind == "jumprelu":
        if logs is None:
            raise file.error(f"the tensor {_LOG} is missing")
        layer.to_centred().threshold = logs.exp()
    elif kind == "topk":
        if not is_true(config.get("use_encoder_bias")):
            layer.b_enc.zero_()
        if threshold is not None and bool((threshold > 0).all()):
            kind, layer.threshold = "batchtopk", threshold
        else:
            settings["k"] = valid_k(file, whole_number(file, config, "top_k"), m)
    source = {"model": config.get("model_name"), "hook": config.get("hook_point"), "text": config.get("dataset_path")}
    card = source_card(NAME, file, config, **source, context=whole_number(file, config, "seq_len"))
    if is_true(config.get("input_unit_norm")):
        return layer.standardised(kind, "layer_norm", card, **settings)
    return layer.build(kind, card, **settings)


def _kind(file: WeightsFile, config: Mapping[str, Any]) -> str:
    """The kind for a `sae_type`; TopK and BatchTopK are both `topk` here, and are distinguished by their tensors."""
    kind = str(config.get("sae_type", "topk")).lower()
    if kind in ("vanilla", "relu", "standard"):
        return "relu"
    if kind == "jumprelu":
        return kind
    if "topk" in kind or "matryoshka" in kind:
        return "topk"
    raise file.error(f"sae_type {kind[:40]!r} is not supported; vanilla, topk, batchtopk, jumprelu and matryoshka are")
