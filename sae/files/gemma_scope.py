"""Gemma Scope: ``params.npz``, or ``params.safetensors`` with lower-case names for Gemma 3; JumpReLU without centring.

    z = p [p > threshold],    p = x W_enc + b_enc,    x_hat = z W_dec + b_dec   (+ x A: ``affine_skip_connection``)

Lieberum et al. 2024, 'Gemma Scope'. Dictionaries of embeddings were trained on activations times sqrt(d). Model, layer
and hook are in the path only, not in a file.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any

from sae.dictionary import Dictionary
from sae.files.layer import Layer
from sae.files.weights_file import LoadOptions, OpenableDictionary, WeightsFile, source_card

NAME = "gemma_scope"
NPZ = ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")
LOWER_CASE = ("w_enc", "w_dec", "b_enc", "b_dec", "threshold")
HOOKS = {"res": "hook_resid_post", "resid_post": "hook_resid_post", "mlp": "hook_mlp_out", "mlp_out": "hook_mlp_out",
          "att": "attn.hook_z", "attn_out": "attn.hook_z"}  # fmt: skip


def find(file: WeightsFile) -> list[OpenableDictionary]:
    npz = file.name.endswith(".npz") and file.has(*NPZ)
    return [OpenableDictionary("", partial(_read, file))] if npz or file.has(*LOWER_CASE) else []


def _read(file: WeightsFile, _: LoadOptions) -> Dictionary:
    w = file.weights()
    W_enc, W_dec = (NPZ if "W_enc" in w else LOWER_CASE)[:2]
    layer = Layer(w.take(W_enc, "d", "m"), w.take(W_dec, "m", "d_out"), w.take("b_enc", "m"), w.take("b_dec", "d_out"))
    layer.threshold = w.take("threshold", "m")
    skip = w.take("affine_skip_connection", "d", "d_out") if "affine_skip_connection" in w else None
    w.finish("Gemma Scope")
    if "embedding" in file.path:
        root = len(layer.b_dec) ** 0.5
        layer.W_enc.div_(root)
        layer.W_dec.mul_(root)
    return layer.transcoder("jumprelu", source_card(NAME, file, file.json("config.json"), **_source(file)), skip)


def _source(file: WeightsFile) -> dict[str, Any]:
    """The source, read from a path such as gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71."""
    source: dict[str, Any] = {"bos": "row", "context": 1024}
    layer = re.search(r"layer_(\d+)", file.path)
    two = re.search(r"gemma-scope-(2b|9b|27b)-(pt|it)-(res|mlp|att)", file.path)
    three = re.search(r"gemma-scope-2-(\w+-\w+).*?/(resid_post|mlp_out|attn_out)", file.path)
    if two is not None:
        source["model"] = f"google/gemma-2-{two[1]}" + ("-it" if two[2] == "it" else "")
    elif three is not None:
        source["model"] = f"google/gemma-3-{three[1]}"
    hook_type = two[3] if two else three[2] if three else None
    if "embedding" in file.path:
        source["hook"] = "hook_embed"
    elif layer is not None and hook_type is not None:
        source["hook"] = f"blocks.{layer[1]}.{HOOKS[hook_type]}"
    return source
