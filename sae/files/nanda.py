"""Nanda's 1L-Sparse-Autoencoder and similar files: ``{version}.pt`` next to ``{version}_cfg.json``.

    z = ReLU((x - b_dec) W_enc + b_enc),    x_hat = z W_dec + b_dec

Any file with exactly these four tensors is read in this format, whatever files are next to it.
"""

from __future__ import annotations

from functools import partial
from pathlib import PurePosixPath

from sae.dictionary import Dictionary
from sae.files.layer import Layer
from sae.files.weights_file import LoadOptions, OpenableDictionary, WeightsFile, source_card

NAME = "nanda"
TENSORS = frozenset({"W_enc", "W_dec", "b_enc", "b_dec"})


def find(file: WeightsFile) -> list[OpenableDictionary]:
    return [OpenableDictionary("", partial(_read, file))] if file.names == TENSORS else []


def _read(file: WeightsFile, _: LoadOptions) -> Dictionary:
    if file.n_axes("W_enc") == 3:
        raise file.error("a crosscoder, which encodes several hooks at once, is not supported")
    w = file.weights()
    layer = Layer(w.take("W_enc", "d", "m"), w.take("W_dec", "m", "d"), w.take("b_enc", "m"), w.take("b_dec", "d"))
    config = file.json(f"{PurePosixPath(file.name).stem}_cfg.json")
    source = {"hook": config.get("act_name"), "model": config.get("model_name"), "context": config.get("seq_len")}
    return layer.build("relu", source_card(NAME, file, config, **source))
