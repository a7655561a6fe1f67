"""EleutherAI's sparsify: ``cfg.json`` and ``sae.safetensors`` in a folder named by the hook point.

    z = TopK(ReLU((x - b_dec) W^T + b)),    x_hat = z W_dec + b_dec   (+ x W_skip^T)

with x instead of x - b_dec where ``transcode`` is set. ``num_latents`` of 0 means ``d_in * expansion_factor``.
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
from sae.files.layer import Layer
from sae.files.native import save_tensors
from sae.files.weights_file import (
    LoadOptions,
    OpenableDictionary,
    WeightsFile,
    is_true,
    source_card,
    valid_k,
    whole_number,
)
from sae.numerics.atomic_write import write_atomically
from sae.registry import UserError

NAME = "sparsify"
_CONFIG = "cfg.json"
_WEIGHTS = "sae.safetensors"


def find(file: WeightsFile) -> list[OpenableDictionary]:
    if not file.has("encoder.weight", "encoder.bias", "W_dec", "b_dec") or "d_in" not in file.json(_CONFIG):
        return []
    return [OpenableDictionary("", partial(_read, file))]


def _read(file: WeightsFile, _: LoadOptions) -> Dictionary:
    config, w = file.json(_CONFIG), file.weights()
    activation = config.get("activation", "topk")
    if activation != "topk" or is_true(config.get("signed")):
        signs = " of both signs" if activation == "topk" else ""
        raise file.error(f"activation {str(activation)[:40]!r}{signs} is not supported; 'topk' is")
    layer = Layer(
        w.take("encoder.weight", "m", "d", transposed=True),
        w.take("W_dec", "m", "d_out"),
        w.take("encoder.bias", "m"),
        w.take("b_dec", "d_out"),
    )
    skip = w.take("W_skip", "d_out", "d", transposed=True) if "W_skip" in w else None
    w.finish("sparsify's SparseCoder")
    d, m, d_out = (w.axes[axis] for axis in ("d", "m", "d_out"))
    d_in, expansion = whole_number(file, config, "d_in"), whole_number(file, config, "expansion_factor", 32)
    n_latents = whole_number(file, config, "num_latents", 0) or d * expansion
    if (d, m) != (d_in, n_latents):
        raise file.error(f"encoder.weight has shape {(m, d)}; {_CONFIG} expects {(n_latents, d_in)}")
    k, card = valid_k(file, config.get("k", 32), m), source_card(NAME, file, config, **_source(file))
    if is_true(config.get("transcode")) or d_out != d:
        return layer.transcoder("topk", card, skip, k=k)
    if skip is not None:
        return layer.to_uncentred().transcoder("topk", card, skip, k=k)
    return layer.build("topk", card, k=k)


def _source(file: WeightsFile) -> dict[str, Any]:
    """The source, from the config of the run and the name of the folder."""
    run = file.json("config.json", up=2)
    hook = file.folder.name or Path(file.location.name).name
    return {"hook": hook, "model": run.get("model"), "text": run.get("dataset"), "context": run.get("ctx_len")}


def save(d: Dictionary, path: Path) -> None:
    """Writes a folder that ``SparseCoder.load_from_disk`` opens. A ReLU dictionary becomes a TopK that keeps all
    latents. Raises `UserError` where the format cannot store the dictionary."""
    skip: Tensor | None = None
    k: Any = d.n_latents
    transcode = isinstance(d, Transcoder)
    if isinstance(d, TopK):
        k = d.k
    elif isinstance(d, Transcoder) and d.reader in ("topk", "relu") and d.d_in == d.d_out:
        skip, k = d.W_skip, d.reader_settings.get("k", k)
    elif not isinstance(d, Relu):
        raise UserError(f"format = 'sparsify': cannot store {_description(d)}, only topk and relu; use format 'native'")
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


def _description(d: Dictionary) -> str:
    if isinstance(d, Transcoder):
        return f"a {d.reader!r} transcoder from width {d.d_in} to {d.d_out}"
    return f"a {d.kind!r} dictionary"
