"""Gemma Scope: ``params.npz`` (or, for Gemma 3, ``params.safetensors`` in small letters), JumpReLU, not centred.

    z = p [p > threshold],    p = x W_enc + b_enc,    x_hat = z W_dec + b_dec   (+ x A: ``affine_skip_connection``)

Lieberum et al. 2024, 'Gemma Scope'. Those of embeddings were trained on rows times sqrt(d). The model, the layer and
the place are in the path, in no file.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any

from sae.dictionary import Dictionary
from sae.files.found import Given, OpenableDictionary, WeightsFile, card
from sae.files.layer import Layer

NAME = "gemma_scope"
NPZ = ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")
SMALL = ("w_enc", "w_dec", "b_enc", "b_dec", "threshold")
PLACES = {"res": "hook_resid_post", "resid_post": "hook_resid_post", "mlp": "hook_mlp_out", "mlp_out": "hook_mlp_out",
          "att": "attn.hook_z", "attn_out": "attn.hook_z"}  # fmt: skip


def find(found: WeightsFile) -> list[OpenableDictionary]:
    npz = found.file.endswith(".npz") and found.has(*NPZ)
    return [OpenableDictionary("", partial(_read, found))] if npz or found.has(*SMALL) else []


def _read(found: WeightsFile, _: Given) -> Dictionary:
    w = found.weights()
    W_enc, W_dec = (NPZ if "W_enc" in w else SMALL)[:2]
    layer = Layer(w.take(W_enc, "d", "m"), w.take(W_dec, "m", "d_out"), w.take("b_enc", "m"), w.take("b_dec", "d_out"))
    layer.threshold = w.take("threshold", "m")
    skip = w.take("affine_skip_connection", "d", "d_out") if "affine_skip_connection" in w else None
    w.finish("Gemma Scope")
    if "embedding" in found.path:
        root = len(layer.b_dec) ** 0.5
        layer.W_enc.div_(root)
        layer.W_dec.mul_(root)
    return layer.transcoder("jumprelu", card(NAME, found, found.json("config.json"), **_source(found)), skip)


def _source(found: WeightsFile) -> dict[str, Any]:
    """What the path tells: gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71."""
    told: dict[str, Any] = {"bos": "row", "context": 1024}
    layer = re.search(r"layer_(\d+)", found.path)
    two = re.search(r"gemma-scope-(2b|9b|27b)-(pt|it)-(res|mlp|att)", found.path)
    three = re.search(r"gemma-scope-2-(\w+-\w+).*?/(resid_post|mlp_out|attn_out)", found.path)
    if two is not None:
        told["model"] = f"google/gemma-2-{two[1]}" + ("-it" if two[2] == "it" else "")
    elif three is not None:
        told["model"] = f"google/gemma-3-{three[1]}"
    place = two[3] if two else three[2] if three else None
    if "embedding" in found.path:
        told["hook"] = "hook_embed"
    elif layer is not None and place is not None:
        told["hook"] = f"blocks.{layer[1]}.{PLACES[place]}"
    return told
