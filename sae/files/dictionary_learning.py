"""dictionary_learning: ``trainer_i/ae.pt``, a state_dict, next to ``config.json``, which names the class.

    AutoEncoder                        ReLU((x - b) W^T + b_enc), decoder columns scaled to norm one on loading
    AutoEncoderNew                     ReLU(x W^T + b_enc)
    GatedAutoEncoder                   [W (x - b) + gate_bias > 0] ReLU(exp(r_mag) W (x - b) + mag_bias)
    JumpReluAutoEncoder                p [p > threshold], p = x W_enc + b_enc
    AutoEncoderTopK, BatchTopKSAE,     the k largest, or those above one threshold for all (-1: unset, all positive)
    MatryoshkaBatchTopKSAE

Training checkpoints, {step, ae, optimizer, norm_factor}, have biases in units of activations divided by norm_factor;
they are converted to raw units. The classes are recognised by their tensors, and by the config where two classes have
the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae.dictionaries.batchtopk import BatchTopK
from sae.dictionaries.gated import Gated
from sae.dictionaries.jumprelu import JumpReLU
from sae.dictionaries.matryoshka import Matryoshka
from sae.dictionaries.relu import Relu
from sae.dictionaries.topk import TopK
from sae.dictionary import Dictionary, card_table
from sae.encoders.threshold import Threshold
from sae.files.layer import Layer, precise_product
from sae.files.tensors import NamedWeights, StoredTensor
from sae.files.weights_file import (
    LoadOptions,
    OpenableDictionary,
    WeightsFile,
    positive_number,
    source_card,
    valid_k,
    whole_number,
)
from sae.numerics.atomic_write import atomic_file, write_atomically
from sae.registry import UserError

NAME = "dictionary_learning"
_CONFIG = "config.json"
_WEIGHTS = "ae.pt"
_LINEAR = frozenset({"encoder.weight", "encoder.bias", "decoder.weight"})
CLASSES = {
    "AutoEncoder": _LINEAR | {"bias"},
    "AutoEncoderNew": _LINEAR | {"decoder.bias"},
    "GatedAutoEncoder": {"decoder_bias", "r_mag", "gate_bias", "mag_bias", "encoder.weight", "decoder.weight"},
    "MatryoshkaBatchTopKSAE": {"W_enc", "b_enc", "W_dec", "b_dec", "k", "threshold", "group_sizes"},
    "JumpReluAutoEncoder": {"W_enc", "b_enc", "W_dec", "b_dec", "threshold"},
    "AutoEncoderTopK": _LINEAR | {"b_dec"},
}
"""The tensors of each class; newer AutoEncoderTopK and BatchTopKSAE have `k` and `threshold` too."""


def find(file: WeightsFile) -> list[OpenableDictionary]:
    tensors, content = file.tensors, file.content
    is_checkpoint = isinstance(content, dict) and isinstance(content.get("ae"), dict) and "step" in content
    if is_checkpoint:
        tensors = {name: t for name, t in content["ae"].items() if isinstance(t, StoredTensor)}
    name = next((name for name, required in CLASSES.items() if required <= tensors.keys()), None)
    if name is None or (name == "JumpReluAutoEncoder" and len(tensors["threshold"].shape) != 1):
        return []
    norm_factor = content.get("norm_factor") if is_checkpoint else None
    return [OpenableDictionary("", partial(_read, file, name, tensors, norm_factor))]


def _read(
    file: WeightsFile, name: str, tensors: Mapping[str, StoredTensor], norm_factor: Any, _: LoadOptions
) -> Dictionary:
    config = file.json(_CONFIG, up=1)
    trainer = config.get("trainer")
    trainer = trainer if isinstance(trainer, dict) else {}
    card = source_card(NAME, file, config, **_source(config, trainer))
    w = NamedWeights(file.label, tensors)
    layer = LAYERS[name](w)
    if norm_factor is not None:
        _to_raw_units(layer, positive_number(file, norm_factor, "norm_factor"))
    if name == "AutoEncoderTopK":
        return _topk_or_batchtopk(file, w, layer, trainer, card, norm_factor)
    if name == "MatryoshkaBatchTopKSAE":
        sizes, _k = w.integers("group_sizes"), w.number("k")
        layer.threshold = torch.tensor(w.number("threshold") * (norm_factor or 1))
        w.finish(name)
        if sum(sizes) != len(layer.b_enc) or min(sizes) < 1:
            raise file.error(f"group_sizes {sizes[:8]} do not add up to {len(layer.b_enc)} latents")
        return layer.build("matryoshka", card, levels=[sum(sizes[: i + 1]) for i in range(len(sizes))])
    w.finish(name)
    if name == "AutoEncoder" and not torch.allclose(layer.W_dec.norm(dim=1), torch.ones(1)):
        layer.fold_decoder_norms()
    return layer.build({"GatedAutoEncoder": "gated", "JumpReluAutoEncoder": "jumprelu"}.get(name, "relu"), card)


def _topk_or_batchtopk(
    file: WeightsFile,
    w: NamedWeights,
    layer: Layer,
    trainer: Mapping[str, Any],
    card: dict[str, Any],
    norm_factor: Any,
) -> Dictionary:
    """A TopK or BatchTopK dictionary, which have the same tensors; the config tells which it is."""
    threshold = w.number("threshold") if "threshold" in w else -1.0
    k = int(w.number("k")) if "k" in w else whole_number(file, trainer, "k")
    w.finish("AutoEncoderTopK or BatchTopKSAE")
    name = trainer.get("dict_class")
    if name not in ("AutoEncoderTopK", "BatchTopKSAE"):
        if threshold >= 0:
            raise file.error(f"an AutoEncoderTopK or a BatchTopKSAE; its {_CONFIG}, which tells which, is missing")
        name = "AutoEncoderTopK"
    if name == "AutoEncoderTopK":
        return layer.build("topk", card, k=valid_k(file, k, len(layer.b_enc)))
    layer.threshold = torch.tensor(threshold * (float(norm_factor or 1)))
    return layer.build("batchtopk", card)


def _linear(b_dec: str, w: NamedWeights) -> Layer:
    W_enc = w.take("encoder.weight", "m", "d", transposed=True)
    W_dec = w.take("decoder.weight", "d", "m", transposed=True)
    return Layer(W_enc, W_dec, w.take("encoder.bias", "m"), w.take(b_dec, "d"))


def _free(w: NamedWeights) -> Layer:
    return Layer(w.take("W_enc", "d", "m"), w.take("W_dec", "m", "d"), w.take("b_enc", "m"), w.take("b_dec", "d"))


def _jumprelu(w: NamedWeights) -> Layer:
    layer = _free(w).to_centred()
    layer.threshold = w.take("threshold", "m")
    return layer


def _gated(w: NamedWeights) -> Layer:
    W_enc = w.take("encoder.weight", "m", "d", transposed=True)
    W_dec, gate = w.take("decoder.weight", "d", "m", transposed=True), w.take("gate_bias", "m")
    gain = w.take("r_mag", "m").exp()
    shift = w.take("mag_bias", "m") - gain * gate
    return Layer(W_enc, W_dec, gate, w.take("decoder_bias", "d"), gain=gain, shift=shift)


LAYERS: dict[str, Callable[[NamedWeights], Layer]] = {
    "AutoEncoder": partial(_linear, "bias"),
    "AutoEncoderNew": lambda w: _linear("decoder.bias", w).to_centred(),
    "AutoEncoderTopK": partial(_linear, "b_dec"),
    "GatedAutoEncoder": _gated,
    "MatryoshkaBatchTopKSAE": _free,
    "JumpReluAutoEncoder": _jumprelu,
}


def _to_raw_units(layer: Layer, factor: float) -> None:
    """Converts a layer for activations divided by `factor` to one for raw activations."""
    layer.b_enc, layer.b_dec = layer.b_enc * factor, layer.b_dec * factor
    layer.threshold = None if layer.threshold is None else layer.threshold * factor
    layer.shift = None if layer.shift is None else layer.shift * factor


def _source(config: Mapping[str, Any], trainer: Mapping[str, Any]) -> dict[str, Any]:
    buffer = config.get("buffer")
    buffer = buffer if isinstance(buffer, dict) else {}
    return {
        "model": trainer.get("lm_name"),
        "hook": trainer.get("submodule_name") or buffer.get("submodule"),
        "layer": trainer.get("layer"),
        "context": buffer.get("ctx_len"),
    }


@dataclass(frozen=True)
class _Written:
    """Class name, tensors and `k` of a dictionary in this format."""

    name: str
    tensors: Mapping[str, Tensor]
    k: int | None = None


def save(d: Dictionary, path: Path) -> None:
    """Writes a folder that ``load_dictionary`` opens. All kinds with thresholds become a JumpReluAutoEncoder. Raises
    `UserError` where the format cannot store the dictionary."""
    written = _written(d)
    source = card_table(d.card, "source")
    trainer = {
        "dict_class": written.name,
        "activation_dim": d.d_in,
        "dict_size": d.n_latents,
        "lm_name": source.get("model", ""),
        "submodule_name": source.get("hook", ""),
    }
    trainer |= {} if written.k is None else {"k": written.k}
    path.mkdir(parents=True, exist_ok=True)
    with atomic_file(path / _WEIGHTS) as temporary:
        torch.save({n: t.detach().cpu().contiguous().clone() for n, t in written.tensors.items()}, temporary)
    config = {"trainer": trainer, "buffer": {"d_submodule": d.d_in, "io": "out", "ctx_len": source.get("context")}}
    write_atomically(path / _CONFIG, (json.dumps(config, indent=1) + "\n").encode())


def _written(d: Dictionary) -> _Written:
    linear = {"encoder.weight": d.W_enc.T, "decoder.weight": d.W_dec.T}
    if isinstance(d, Relu):
        return _Written("AutoEncoder", linear | {"encoder.bias": d.b_enc, "bias": d.b_dec})
    if isinstance(d, TopK):
        selection = {"k": torch.tensor(d.k, dtype=torch.int32), "threshold": torch.tensor(-1.0)}
        return _Written("AutoEncoderTopK", linear | {"encoder.bias": d.b_enc, "b_dec": d.b_dec} | selection, d.k)
    if isinstance(d, Gated):
        if bool((d.gain <= 0).any()):
            raise UserError("format = 'dictionary_learning': stores only positive gains; use format 'native'")
        gates = {"gate_bias": d.b_enc, "mag_bias": d.shift + d.gain * d.b_enc, "r_mag": d.gain.log()}
        return _Written("GatedAutoEncoder", linear | gates | {"decoder_bias": d.b_dec})
    if isinstance(d, JumpReLU | BatchTopK | Matryoshka | Threshold):
        if bool((d.threshold < 0).any()):
            raise UserError("format = 'dictionary_learning': stores only thresholds from 0 on; use format 'native'")
        b_enc = d.b_enc - precise_product(d.b_dec, d.W_enc)
        parts = {"W_enc": d.W_enc, "W_dec": d.W_dec, "b_enc": b_enc, "b_dec": d.b_dec, "threshold": d.threshold}
        return _Written("JumpReluAutoEncoder", parts)
    raise UserError(
        f"format = 'dictionary_learning': cannot store a {d.kind!r} dictionary, only relu, topk, gated and kinds with "
        "thresholds; use format 'native'"
    )
