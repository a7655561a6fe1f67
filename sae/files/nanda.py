"""Nanda's 1L-Sparse-Autoencoder and what is written like it: ``{version}.pt`` beside ``{version}_cfg.json``.

    z = ReLU((x - b_dec) W_enc + b_enc),    x_hat = z W_dec + b_dec

A file of these four tensors alone, whatever lies beside it, is read as this.
"""

from __future__ import annotations

from functools import partial
from pathlib import PurePosixPath

from sae.dictionary import Dictionary
from sae.files.found import Given, OpenableDictionary, WeightsFile, card
from sae.files.layer import Layer

NAME = "nanda"
TENSORS = frozenset({"W_enc", "W_dec", "b_enc", "b_dec"})


def find(found: WeightsFile) -> list[OpenableDictionary]:
    return [OpenableDictionary("", partial(_read, found))] if found.names == TENSORS else []


def _read(found: WeightsFile, _: Given) -> Dictionary:
    if found.axes("W_enc") == 3:
        raise found.refused("a crosscoder, which reads several places at once, cannot be read")
    w = found.weights()
    layer = Layer(w.take("W_enc", "d", "m"), w.take("W_dec", "m", "d"), w.take("b_enc", "m"), w.take("b_dec", "d"))
    config = found.json(f"{PurePosixPath(found.file).stem}_cfg.json")
    source = {"hook": config.get("act_name"), "model": config.get("model_name"), "context": config.get("seq_len")}
    return layer.build("relu", card(NAME, found, config, **source))
