"""Bussmann's BatchTopK and matryoshka_sae: ``sae.pt`` beside ``config.json``, whose values may be text.

    z = ReLU((x' - b_dec) W_enc) as far as it is chosen,    x_hat = z W_dec + b_dec

on standardised rows where ``input_unit_norm`` is set. The kinds that choose have a `b_enc` which they never add, unless
``use_encoder_bias`` says so; the vanilla one adds it; the JumpReLU, whose thresholds are logarithms, reads x' itself.
Where a choice over a batch has left no threshold, the k largest of each row are kept, which is what it does on a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from sae.dictionary import Dictionary
from sae.files.found import Given, OpenableDictionary, WeightsFile, card, k_of, truth, whole
from sae.files.layer import Layer

NAME = "bussmann"
_LOG = "jumprelu.log_threshold"


def find(found: WeightsFile) -> list[OpenableDictionary]:
    config = found.json("config.json")
    if not found.has("W_enc", "W_dec", "b_enc", "b_dec") or not {"act_size", "dict_size"} <= config.keys():
        return []
    return [OpenableDictionary("", partial(_read, found, config))]


def _read(found: WeightsFile, config: Mapping[str, Any], _: Given) -> Dictionary:
    w = found.weights()
    layer = Layer(w.take("W_enc", "d", "m"), w.take("W_dec", "m", "d"), w.take("b_enc", "m"), w.take("b_dec", "d"))
    m = len(layer.b_enc)
    threshold: Tensor | None = w.take("threshold", *(["m"] * found.axes("threshold"))) if "threshold" in w else None
    logs = w.take(_LOG, "m") if _LOG in w else None
    w.drop("num_batches_not_active")
    w.finish("Bussmann's autoencoders")
    kind, settings = _kind(found, config), dict[str, Any]()
    if config.get("activation", "relu") != "relu" or truth(config.get("tied_weights")):
        raise found.refused(f"the activation {str(config.get('activation'))[:40]!r} or tied weights cannot be read")
    if kind == "jumprelu":
        if logs is None:
            raise found.refused(f"the tensor {_LOG} is missing")
        layer.uncentred().threshold = logs.exp()
    elif kind == "topk":
        if not truth(config.get("use_encoder_bias")):
            layer.b_enc.zero_()
        if threshold is not None and bool((threshold > 0).all()):
            kind, layer.threshold = "batchtopk", threshold
        else:
            settings["k"] = k_of(found, whole(found, config, "top_k"), m)
    source = {"model": config.get("model_name"), "hook": config.get("hook_point"), "text": config.get("dataset_path")}
    told = card(NAME, found, config, **source, context=whole(found, config, "seq_len"))
    if truth(config.get("input_unit_norm")):
        return layer.standardised(kind, "layer_norm", told, **settings)
    return layer.build(kind, told, **settings)


def _kind(found: WeightsFile, config: Mapping[str, Any]) -> str:
    """Ours for theirs, without the difference between a row and a batch, which the tensors tell."""
    kind = str(config.get("sae_type", "topk")).lower()
    if kind in ("vanilla", "relu", "standard"):
        return "relu"
    if kind == "jumprelu":
        return kind
    if "topk" in kind or "matryoshka" in kind:
        return "topk"
    raise found.refused(f"sae_type {kind[:40]!r} cannot be read: vanilla, topk, batchtopk, jumprelu and matryoshka can")
