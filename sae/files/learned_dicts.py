"""sparse_coding's ``learned_dicts.pt``: a pickled list of objects, or of pairs of an object and its settings.

    TiedSAE     c = R (x - t) * s;   z = ReLU(E c + b),   x_hat = R^T (z E / s) + t,    rows of E of norm one
    UntiedSAE   z = ReLU(E x + b),   x_hat = z D,    rows of D of norm one

with `center_trans` t, `center_rot` R and `center_scale` s, which older pickles lack. Cunningham et al. 2023, 'Sparse
autoencoders find highly interpretable features in language models'. The classes are never imported; only their names
and tensors are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sae.dictionary import Dictionary
from sae.files.layer import Layer
from sae.files.tensors import NamedWeights, StoredTensor
from sae.files.tensors.records import PickledObject
from sae.files.weights_file import LoadOptions, OpenableDictionary, WeightsFile, source_card
from sae.registry import UserError

NAME = "learned_dicts"
CENTRE = ("center_trans", "center_rot", "center_scale")


def find(file: WeightsFile) -> list[OpenableDictionary]:
    content = file.content
    items = content if isinstance(content, list | tuple) else [content]
    pairs: list[tuple[Any, Any]] = [
        item if isinstance(item, tuple) and len(item) == 2 else (item, {}) for item in items
    ]
    if not pairs or not all(isinstance(model, PickledObject) for model, _ in pairs):
        return []
    return [
        OpenableDictionary(_name(i, settings) if len(pairs) > 1 else "", partial(_read, file, model, settings))
        for i, (model, settings) in enumerate(pairs)
    ]


def _name(i: int, settings: Any) -> str:
    """Index in the list and the numeric settings."""
    return ",".join([str(i), *(f"{name}={value:g}" for name, value in _numeric(settings).items())])


def _numeric(settings: Any) -> dict[str, float]:
    """The numbers among the settings."""
    values = settings if isinstance(settings, dict) and len(settings) < 50 else {}
    numbers = {str(k): v.item() if isinstance(v, StoredTensor) and v.shape == () else v for k, v in values.items()}
    return {k: v for k, v in numbers.items() if isinstance(v, int | float)}


def _read(file: WeightsFile, model: PickledObject, settings: Any, _: LoadOptions) -> Dictionary:
    kind, state = model.type_name.name, model.state
    if kind not in ("TiedSAE", "UntiedSAE"):
        raise file.error(f"class {kind[:40]!r} is not supported; TiedSAE and UntiedSAE are")
    w = NamedWeights(file.label, state)
    encoder, bias = w.take("encoder", "m", "d"), w.take("encoder_bias", "m")
    rows = _unit(w.take("decoder", "m", "d") if kind == "UntiedSAE" else encoder)
    if kind == "TiedSAE" and state.get("norm_encoder", True) is not False:
        encoder = rows
    t, R, s = _centre(w, state, encoder.shape[1])
    w.finish(kind)
    card = source_card(NAME, file, _numeric(settings))
    layer = Layer(encoder.T.contiguous(), rows.contiguous(), bias, torch.zeros(encoder.shape[1]))
    if R is not None:
        layer.W_enc, layer.W_dec = R.T @ (s[:, None] * layer.W_enc), (layer.W_dec / s) @ R
    elif bool((s != 1).any()):
        layer.W_enc, layer.W_dec = s[:, None] * layer.W_enc, layer.W_dec / s
    layer.b_dec = t
    return layer.build("relu", card)


def _centre(w: NamedWeights, state: Mapping[str, Any], d: int) -> tuple[Tensor, Tensor | None, Tensor]:
    """t, R (None: the identity) and s."""
    has = {name: isinstance(state.get(name), StoredTensor) for name in CENTRE}
    t = w.take("center_trans", "d") if has["center_trans"] else torch.zeros(d)
    R = w.take("center_rot", "d", "d") if has["center_rot"] else None
    s = w.take("center_scale", "d") if has["center_scale"] else torch.ones(d)
    if bool((s == 0).any()):
        raise UserError(f"{w.label}: center_scale holds zeros, so that the dictionary cannot be decoded")
    return t, None if R is not None and torch.equal(R, torch.eye(d)) else R, s


def _unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=-1, keepdim=True).clamp_min(1e-8)
