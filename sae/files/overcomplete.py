"""overcomplete's models, as the ``state_dict`` that their users save, in ``.pt`` or ``.safetensors``.

    z = ReLU(x W^T + b),    x_hat = z D,    D = exp(multiplier) * rows of `_weights` at norm one

A JumpSAE has `thresholds` too, as logarithms, which codes reach or exceed. What else a class keeps is in no tensor: the
number of codes of a TopKSAE is `k` in a ``config.json`` beside it, or is given on loading; without it all positive
codes are read, and the card says so.
"""

from __future__ import annotations

from functools import partial

import torch

from sae.dictionary import Dictionary
from sae.files.found import Given, OpenableDictionary, WeightsFile, card, k_of, whole
from sae.files.layer import Layer

NAME = "overcomplete"
_WEIGHTS = "dictionary._weights"
ENCODERS = ("encoder.final_block.0.weight", "encoder.weight")


def find(found: WeightsFile) -> list[OpenableDictionary]:
    return [OpenableDictionary("", partial(_read, found))] if _WEIGHTS in found.names else []


def _read(found: WeightsFile, given: Given) -> Dictionary:
    w, config = found.weights(), found.json("config.json")
    W_dec = w.take(_WEIGHTS, "m", "d")
    W_dec.div_(W_dec.norm(dim=1, keepdim=True) + 1e-8)
    if "dictionary.multiplier" in w:
        W_dec.mul_(float(torch.tensor(w.number("dictionary.multiplier")).exp()))
    name = next((name for name in ENCODERS if name in w), None)
    W_enc = W_dec.T.contiguous() if name is None else w.take(name, "m", "d", transposed=True)
    bias = "encoder.bias" if name is None else name.replace("weight", "bias")
    b_enc = w.take(bias, "m") if bias in w else torch.zeros(len(W_dec))
    layer, told = Layer(W_enc, W_dec, b_enc, torch.zeros(W_dec.shape[1])), card(NAME, found, config)
    if "thresholds" in w:
        # What reaches the threshold passes there, what exceeds it here: it is lowered by as little as can be.
        lowered = torch.nextafter(w.take("thresholds", "m").exp(), torch.tensor(0.0))
        layer.threshold = lowered
    w.drop("encoder.tied_to._weights", "encoder.tied_to.multiplier")
    w.finish("overcomplete's linear encoder and dictionary")
    if layer.threshold is not None:
        return layer.build("jumprelu", told)
    k = given.k if given.k is not None else whole(found, config, "k") or whole(found, config, "top_k")
    if k is not None:
        return layer.build("topk", told, k=k_of(found, k, len(W_dec)))
    return layer.build("relu", told | {"selection": "none that the file tells of; a TopKSAE is opened with k = ..."})
