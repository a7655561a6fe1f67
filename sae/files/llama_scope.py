"""Llama Scope and its successors: JumpReLU, TopK or ReLU on rows of a norm of sqrt(d), in three layouts.

    x' = a x,  a = sqrt(d) / norm.in;    p = x' W + b;    z' = p [p > threshold];    y' = z' D + b_D;    y = y' / c

with c = sqrt(d) / norm.out; with ``sparsity_include_decoder_norm`` it is ``p ||D_j||`` that is held against the
threshold or chosen from. He et al. 2024, 'Llama Scope'. Codes are given in units of the raw rows, z = z' / a, as their
own inference mode has them.

    hyperparams.json    checkpoints/final.safetensors with encoder.*, decoder.*; one threshold for all, in raw units of
                        the output: their conversion from TopK was made in the inference mode
    config.json         sae_weights.safetensors with encoder.*, decoder.*, log_jumprelu_threshold
    config.json         sae_weights.safetensors with W_E, b_E, W_D, b_D, activation_function.log_jumprelu_threshold and
                        dataset_average_activation_norm.HOOK
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from sae.dictionary import Dictionary
from sae.files.found import Given, OpenableDictionary, WeightsFile, card, k_of, positive, truth, whole
from sae.files.layer import Layer

NAME = "llama_scope"
NORM = "dataset_average_activation_norm"
_LOG = "log_jumprelu_threshold"
_PLAIN = ("encoder.weight", "encoder.bias", "decoder.weight")


def find(found: WeightsFile) -> list[OpenableDictionary]:
    if found.has(*_PLAIN) and found.json("hyperparams.json", up=1):
        return [OpenableDictionary("", partial(_read, found, found.json("hyperparams.json", up=1)))]
    config = found.json("config.json", up=1)
    if found.has("W_E", "b_E", "W_D") or found.has(*_PLAIN, _LOG) or (found.has(*_PLAIN) and "act_fn" in config):
        return [OpenableDictionary("", partial(_read, found, config))]
    return []


def _read(found: WeightsFile, config: dict[str, Any], _: Given) -> Dictionary:
    w = found.weights()
    if "W_E_glu" in w or "encoder_glu.weight" in w:
        raise found.refused("a gated linear encoder (use_glu_encoder) cannot be read")
    new = "W_E" in w
    W_enc = w.take("W_E", "d", "m") if new else w.take("encoder.weight", "m", "d", transposed=True)
    W_dec = w.take("W_D", "m", "d") if new else w.take("decoder.weight", "d", "m", transposed=True)
    b_enc = w.take("b_E" if new else "encoder.bias", "m")
    bias = "b_D" if new else "decoder.bias"
    b_dec = w.take(bias, "d") if bias in w else torch.zeros(W_dec.shape[1])
    name = next((name for name in (f"activation_function.{_LOG}", _LOG) if name in w), None)
    logs = None if name is None else w.take(name, "m")
    norms = {n.removeprefix(f"{NORM}."): w.number(n) for n in sorted(w.left) if n.startswith(f"{NORM}.")}
    w.finish("Llama Scope")
    layer, mode = Layer(W_enc, W_dec, b_enc, b_dec), config.get("norm_activation", "dataset-wise")
    threshold, activation = _threshold(found, config, logs, layer)
    if mode == "dataset-wise":
        a, c = _factors(found, config, norms, W_dec.shape[1])
        layer.b_enc, layer.b_dec = layer.b_enc / a, layer.b_dec / c
        layer.W_dec.mul_(a / c)
        threshold = None if threshold is None else threshold / a
    elif mode not in ("inference", "token-wise"):
        raise found.refused(f"norm_activation {str(mode)[:40]!r} cannot be read: it depends on other rows")
    layer.threshold = threshold
    if logs is None and threshold is not None:
        norm = layer.W_dec.norm(dim=1) if truth(config.get("sparsity_include_decoder_norm")) else torch.tensor(1.0)
        layer.threshold = positive(found, config.get("jump_relu_threshold"), "jump_relu_threshold") / norm
    told = card(NAME, found, config, model=config.get("model"), **_hooks(config))
    settings = {"k": k_of(found, whole(found, config, "top_k"), len(b_enc))} if activation == "topk" else {}
    layer.uncentred()
    if mode == "token-wise":
        return layer.standardised(activation, "norm", told, eps=0.0, **settings)
    return layer.build(activation, told, **settings)


def _threshold(
    found: WeightsFile, config: dict[str, Any], logs: Tensor | None, layer: Layer
) -> tuple[Tensor | None, str]:
    """The threshold in units of the layer's pre-activations, and our kind; a layer that is chosen from by what codes
    decode to is brought to rows of norm one."""
    activation = str(config.get("act_fn", "jumprelu")).lower()
    by_norm = truth(config.get("sparsity_include_decoder_norm"))
    if logs is not None or activation == "jumprelu":
        if logs is None:
            return torch.ones(()), "jumprelu"
        return logs.exp() / (layer.W_dec.norm(dim=1) if by_norm else 1.0), "jumprelu"
    if activation not in ("relu", "topk"):
        raise found.refused(f"act_fn {activation[:40]!r} cannot be read: relu, jumprelu and topk can")
    if activation == "topk" and by_norm:
        layer.unit_rows()
    return None, activation


def _factors(found: WeightsFile, config: dict[str, Any], norms: dict[str, float], d: int) -> tuple[float, float]:
    """a and c, from the config or from the tensors."""
    told = config.get(NORM)
    told = told if isinstance(told, dict) else {}
    hooks = [config.get("hook_point_in"), config.get("hook_point_out", config.get("hook_point_in"))]
    found_norms: list[float] = []
    for side, hook in zip(("in", "out"), hooks, strict=True):
        norm = told.get(side, norms.get(str(hook), told.get(str(hook))))
        if norm is None:
            raise found.refused(f"norm_activation is 'dataset-wise' and {NORM} of {hook!r} is neither in its config "
                                "nor among its tensors")  # fmt: skip
        found_norms.append(positive(found, norm, f"{NORM}.{side}"))
    return d**0.5 / found_norms[0], d**0.5 / found_norms[1]


def _hooks(config: dict[str, Any]) -> dict[str, Any]:
    """Where it reads, and where it writes if that is elsewhere."""
    hook, target = config.get("hook_point_in"), config.get("hook_point_out")
    return {"hook": hook, "target": None if target == hook else target}
