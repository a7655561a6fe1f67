"""Llama Scope and its successors: JumpReLU, TopK or ReLU on activations scaled to norm sqrt(d), in three layouts.

    x' = a x,  a = sqrt(d) / norm.in;    p = x' W + b;    z' = p [p > threshold];    y' = z' D + b_D;    y = y' / c

with c = sqrt(d) / norm.out. With ``sparsity_include_decoder_norm``, thresholds and selection apply to ``p ||D_j||``. He
et al. 2024, 'Llama Scope'. Codes are in units of the raw activations, z = z' / a, as in its inference mode.

    hyperparams.json    checkpoints/final.safetensors with encoder.*, decoder.*; one threshold for all, in raw units of
                        the output, because the conversion from TopK used the inference mode
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
from sae.files.layer import Layer
from sae.files.weights_file import (
    LoadOptions,
    OpenableDictionary,
    WeightsFile,
    is_true,
    positive_number,
    source_card,
    valid_k,
    whole_number,
)

NAME = "llama_scope"
NORM = "dataset_average_activation_norm"
_LOG = "log_jumprelu_threshold"
_PLAIN = ("encoder.weight", "encoder.bias", "decoder.weight")


def find(file: WeightsFile) -> list[OpenableDictionary]:
    if file.has(*_PLAIN) and file.json("hyperparams.json", up=1):
        return [OpenableDictionary("", partial(_read, file, file.json("hyperparams.json", up=1)))]
    config = file.json("config.json", up=1)
    if file.has("W_E", "b_E", "W_D") or file.has(*_PLAIN, _LOG) or (file.has(*_PLAIN) and "act_fn" in config):
        return [OpenableDictionary("", partial(_read, file, config))]
    return []


def _read(file: WeightsFile, config: dict[str, Any], _: LoadOptions) -> Dictionary:
    w = file.weights()
    if "W_E_glu" in w or "encoder_glu.weight" in w:
        raise file.error("a gated linear encoder (use_glu_encoder) is not supported")
    is_new = "W_E" in w
    W_enc = w.take("W_E", "d", "m") if is_new else w.take("encoder.weight", "m", "d", transposed=True)
    W_dec = w.take("W_D", "m", "d") if is_new else w.take("decoder.weight", "d", "m", transposed=True)
    b_enc = w.take("b_E" if is_new else "encoder.bias", "m")
    bias = "b_D" if is_new else "decoder.bias"
    b_dec = w.take(bias, "d") if bias in w else torch.zeros(W_dec.shape[1])
    name = next((name for name in (f"activation_function.{_LOG}", _LOG) if name in w), None)
    logs = None if name is None else w.take(name, "m")
    norms = {n.removeprefix(f"{NORM}."): w.number(n) for n in sorted(w.remaining) if n.startswith(f"{NORM}.")}
    w.finish("Llama Scope")
    layer, mode = Layer(W_enc, W_dec, b_enc, b_dec), config.get("norm_activation", "dataset-wise")
    threshold, activation = _threshold(file, config, logs, layer)
    if mode == "dataset-wise":
        a, c = _factors(file, config, norms, W_dec.shape[1])
        layer.b_enc, layer.b_dec = layer.b_enc / a, layer.b_dec / c
        layer.W_dec.mul_(a / c)
        threshold = None if threshold is None else threshold / a
    elif mode not in ("inference", "token-wise"):
        raise file.error(f"norm_activation {str(mode)[:40]!r} is not supported: it depends on the other samples")
    layer.threshold = threshold
    if logs is None and threshold is not None:
        norm = layer.W_dec.norm(dim=1) if is_true(config.get("sparsity_include_decoder_norm")) else torch.tensor(1.0)
        layer.threshold = positive_number(file, config.get("jump_relu_threshold"), "jump_relu_threshold") / norm
    card = source_card(NAME, file, config, model=config.get("model"), **_hooks(config))
    settings = {"k": valid_k(file, whole_number(file, config, "top_k"), len(b_enc))} if activation == "topk" else {}
    layer.to_centred()
    if mode == "token-wise":
        return layer.standardised(activation, "norm", card, eps=0.0, **settings)
    return layer.build(activation, card, **settings)


def _threshold(
    file: WeightsFile, config: dict[str, Any], logs: Tensor | None, layer: Layer
) -> tuple[Tensor | None, str]:
    """The threshold in units of the pre-activations, and the kind. Where TopK selects by ``p ||D_j||``, the norms are
    folded into the encoder."""
    activation = str(config.get("act_fn", "jumprelu")).lower()
    by_norm = is_true(config.get("sparsity_include_decoder_norm"))
    if logs is not None or activation == "jumprelu":
        if logs is None:
            return torch.ones(()), "jumprelu"
        return logs.exp() / (layer.W_dec.norm(dim=1) if by_norm else 1.0), "jumprelu"
    if activation not in ("relu", "topk"):
        raise file.error(f"act_fn {activation[:40]!r} is not supported; relu, jumprelu and topk are")
    if activation == "topk" and by_norm:
        layer.fold_decoder_norms()
    return None, activation


def _factors(file: WeightsFile, config: dict[str, Any], norms: dict[str, float], d: int) -> tuple[float, float]:
    """a and c, from the config or from the tensors."""
    entry = config.get(NORM)
    entry = entry if isinstance(entry, dict) else {}
    hooks = [config.get("hook_point_in"), config.get("hook_point_out", config.get("hook_point_in"))]
    valid_norms: list[float] = []
    for side, hook in zip(("in", "out"), hooks, strict=True):
        norm = entry.get(side, norms.get(str(hook), entry.get(str(hook))))
        if norm is None:
            raise file.error(f"norm_activation is 'dataset-wise' and {NORM} of {hook!r} is neither in its config "
                                "nor among its tensors")  # fmt: skip
        valid_norms.append(positive_number(file, norm, f"{NORM}.{side}"))
    return d**0.5 / valid_norms[0], d**0.5 / valid_norms[1]


def _hooks(config: dict[str, Any]) -> dict[str, Any]:
    """The hook of the input, and that of the target where it is another."""
    hook, target = config.get("hook_point_in"), config.get("hook_point_out")
    return {"hook": hook, "target": None if target == hook else target}
