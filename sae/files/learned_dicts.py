"""sparse_coding's ``learned_dicts.pt``: a pickled list of objects, or of pairs of one and its settings.

    TiedSAE     c = R (x - t) * s;   z = ReLU(E c + b),   x_hat = R^T (z E / s) + t,    rows of E at norm one
    UntiedSAE   z = ReLU(E x + b),   x_hat = z D,    rows of D at norm one

with `center_trans` t, `center_rot` R and `center_scale` s, which older pickles lack. Cunningham et al. 2023, 'Sparse
autoencoders find highly interpretable features in language models'. The objects' classes are never looked up: what is
read is their names and their tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sae.dictionary import Dictionary
from sae.files.found import Given, OpenableDictionary, WeightsFile, card
from sae.files.layer import Layer
from sae.files.tensors import NamedWeights, StoredTensor
from sae.files.tensors.records import PickledObject
from sae.registry import UserError

NAME = "learned_dicts"
CENTRE = ("center_trans", "center_rot", "center_scale")


def find(found: WeightsFile) -> list[OpenableDictionary]:
    content = found.content
    items = content if isinstance(content, list | tuple) else [content]
    pairs: list[tuple[Any, Any]] = [
        item if isinstance(item, tuple) and len(item) == 2 else (item, {}) for item in items
    ]
    if not pairs or not all(isinstance(of, PickledObject) for of, _ in pairs):
        return []
    return [
        OpenableDictionary(_named(i, settings) if len(pairs) > 1 else "", partial(_read, found, of, settings))
        for i, (of, settings) in enumerate(pairs)
    ]


def _named(i: int, settings: Any) -> str:
    """Its place in the list and the settings that tell it from the others."""
    told = _plain(settings)
    return ",".join([str(i), *(f"{name}={value:g}" for name, value in told.items())])


def _plain(settings: Any) -> dict[str, float]:
    """Numbers among the settings."""
    given = settings if isinstance(settings, dict) and len(settings) < 50 else {}
    numbers = {str(k): v.item() if isinstance(v, StoredTensor) and v.shape == () else v for k, v in given.items()}
    return {k: v for k, v in numbers.items() if isinstance(v, int | float)}


def _read(found: WeightsFile, of: PickledObject, settings: Any, _: Given) -> Dictionary:
    kind, state = of.what.name, of.state
    if kind not in ("TiedSAE", "UntiedSAE"):
        raise found.refused(f"a {kind[:40]!r} cannot be read: TiedSAE and UntiedSAE can")
    w = NamedWeights(found.label, state)
    encoder, bias = w.take("encoder", "m", "d"), w.take("encoder_bias", "m")
    rows = _unit(w.take("decoder", "m", "d") if kind == "UntiedSAE" else encoder)
    if kind == "TiedSAE" and state.get("norm_encoder", True) is not False:
        encoder = rows
    t, R, s = _centre(w, state, encoder.shape[1])
    w.finish(kind)
    told = card(NAME, found, _plain(settings))
    layer = Layer(encoder.T.contiguous(), rows.contiguous(), bias, torch.zeros(encoder.shape[1]))
    if R is not None:
        layer.W_enc, layer.W_dec = R.T @ (s[:, None] * layer.W_enc), (layer.W_dec / s) @ R
    elif bool((s != 1).any()):
        layer.W_enc, layer.W_dec = s[:, None] * layer.W_enc, layer.W_dec / s
    layer.b_dec = t
    return layer.build("relu", told)


def _centre(w: NamedWeights, state: Mapping[str, Any], d: int) -> tuple[Tensor, Tensor | None, Tensor]:
    """t, R (None: the identity) and s."""
    have = {name: isinstance(state.get(name), StoredTensor) for name in CENTRE}
    t = w.take("center_trans", "d") if have["center_trans"] else torch.zeros(d)
    R = w.take("center_rot", "d", "d") if have["center_rot"] else None
    s = w.take("center_scale", "d") if have["center_scale"] else torch.ones(d)
    if bool((s == 0).any()):
        raise UserError(f"{w.label}: center_scale holds zeros, by which nothing can be divided")
    return t, None if R is not None and torch.equal(R, torch.eye(d)) else R, s


def _unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=-1, keepdim=True).clamp_min(1e-8)
