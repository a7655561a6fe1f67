"""EleutherAI's sparsify: ``cfg.json`` and ``sae.safetensors`` in a folder named by the hook point.

    z = TopK(ReLU((x - b_dec) W^T + b)),    x_hat = z W_dec + b_dec   (+ x W_skip^T)

and x in place of x - b_dec where ``transcode`` is set. ``num_latents`` of 0 means ``d_in * expansion_factor``.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from sae.dictionaries.relu import Relu
from sae.dictionaries.topk import TopK
from sae.dictionaries.transcoder import Transcoder
from sae.dictionary import Dictionary
from sae.files.found import Given, OpenableDictionary, WeightsFile, card, k_of, truth, whole
from sae.files.layer import Layer
from sae.files.native import save_tensors
from sae.numerics.atomic_write import write_atomically
from sae.registry import UserError

NAME = "sparsify"
_CONFIG = "cfg.json"
_WEIGHTS = "sae.safetensors"


def find(found: WeightsFile) -> list[OpenableDictionary]:
    if not found.has("encoder.weight", "encoder.bias", "W_dec", "b_dec") or "d_in" not in found.json(_CONFIG):
        return []
    return [OpenableDictionary("", partial(_read, found))]


def _read(found: WeightsFile, _: Given) -> Dictionary:
    config, w = found.json(_CONFIG), found.weights()
    activation = config.get("activation", "topk")
    if activation != "topk" or truth(config.get("signed")):
        signs = " of both signs" if activation == "topk" else ""
        raise found.refused(f"the activation {str(activation)[:40]!r}{signs} cannot be read, 'topk' can")
    layer = Layer(
        w.take("encoder.weight", "m", "d", transposed=True),
        w.take("W_dec", "m", "d_out"),
        w.take("encoder.bias", "m"),
        w.take("b_dec", "d_out"),
    )
    skip = w.take("W_skip", "d_out", "d", transposed=True) if "W_skip" in w else None
    w.finish("sparsify's SparseCoder")
    d, m, d_out = (w.axes[axis] for axis in ("d", "m", "d_out"))
    d_in, expansion = whole(found, config, "d_in"), whole(found, config, "expansion_factor", 32)
    n_latents = whole(found, config, "num_latents", 0) or d * expansion
    if (d, m) != (d_in, n_latents):
        raise found.refused(f"encoder.weight has shape {(m, d)}, {(n_latents, d_in)} expected by {_CONFIG}")
    k, told = k_of(found, config.get("k", 32), m), card(NAME, found, config, **_source(found))
    if truth(config.get("transcode")) or d_out != d:
        return layer.transcoder("topk", told, skip, k=k)
    if skip is not None:
        return layer.recentred().transcoder("topk", told, skip, k=k)
    return layer.build("topk", told, k=k)


def _source(found: WeightsFile) -> dict[str, Any]:
    """What the run's own config and the folder's name tell."""
    run = found.json("config.json", up=2)
    hook = found.folder.name or Path(found.place.name).name
    return {"hook": hook, "model": run.get("model"), "text": run.get("dataset"), "context": run.get("ctx_len")}


def save(d: Dictionary, path: Path) -> None:
    """Writes a folder that ``SparseCoder.load_from_disk`` opens. ReLU is TopK that keeps all."""
    skip: Tensor | None = None
    k: Any = d.n_latents
    transcode = isinstance(d, Transcoder)
    if isinstance(d, TopK):
        k = d.k
    elif isinstance(d, Transcoder) and d.reader in ("topk", "relu") and d.d_in == d.d_out:
        skip, k = d.W_skip, d.reader_settings.get("k", k)
    elif not isinstance(d, Relu):
        raise UserError(f"format 'sparsify' has no place for {_described(d)}; 'topk' and 'relu' can be written")
    config = {
        "activation": "topk",
        "expansion_factor": max(1, d.n_latents // d.d_in),
        "normalize_decoder": not transcode,
        "num_latents": d.n_latents,
        "k": k,
        "multi_topk": False,
        "skip_connection": skip is not None,
        "transcode": transcode,
        "d_in": d.d_in,
    }
    tensors = {"encoder.weight": d.W_enc.T, "encoder.bias": d.b_enc, "W_dec": d.W_dec, "b_dec": d.b_dec}
    save_tensors(tensors | ({} if skip is None else {"W_skip": skip.T}), path / _WEIGHTS)
    write_atomically(path / _CONFIG, (json.dumps(config, indent=1) + "\n").encode())


def _described(d: Dictionary) -> str:
    if isinstance(d, Transcoder):
        return f"a {d.reader!r} transcoder from {d.d_in} to {d.d_out} numbers"
    return f"a {d.kind!r} dictionary"
