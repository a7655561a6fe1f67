"""overcomplete's models, saved by their users as a ``state_dict`` in ``.pt`` or ``.safetensors``.

    z = ReLU(x W^T + b),    x_hat = z D,    D = exp(multiplier) * rows of `_weights` scaled to norm one

A JumpSAE also has `thresholds`, as logarithms; codes that reach or exceed them fire. The number of active latents of a
TopKSAE is not among the tensors: it is `k` in a ``config.json`` next to the file, or an argument of :func:`sae.load`.
Without it all positive codes are kept, and the card says so.
"""

from __future__ import annotations

from functools import partial

import torch

from sae.dictionary import Dictionary
from sae.files.layer import Layer
from sae.files.weights_file import LoadOptions, OpenableDictionary, WeightsFile, source_card, valid_k, whole_number

NAME = "overcomplete"
_WEIGHTS = "dictionary._weights"
ENCODERS = ("encoder.final_block.0.weight", "encoder.weight")


def find(file: WeightsFile) -> list[OpenableDictionary]:
    return [OpenableDictionary("", partial(_read, file))] if _WEIGHTS in file.names else []


def _read(file: WeightsFile, options: LoadOptions) -> Dictionary:
    w, config = file.weights(), file.json("config.json")
    W_dec = w.take(_WEIGHTS, "m", "d")
    W_dec.div_(W_dec.norm(dim=1, keepdim=True) + 1e-8)
    if "dictionary.multiplier" in w:
        W_dec.mul_(float(torch.tensor(w.number("dictionary.multiplier")).exp()))
    name = next((name for name in ENCODERS if name in w), None)
    W_enc = W_dec.T.contiguous() if name is None else w.take(name, "m", "d", transposed=True)
    bias = "encoder.bias" if name is None else name.replace("weight", "bias")
    b_enc = w.take(bias, "m") if bias in w else torch.zeros(len(W_dec))
    layer, card = Layer(W_enc, W_dec, b_enc, torch.zeros(W_dec.shape[1])), source_card(NAME, file, config)
    if "thresholds" in w:
        # A JumpSAE keeps codes at the threshold, a JumpReLU only those above it: lower it by the least float step.
        lowered = torch.nextafter(w.take("thresholds", "m").exp(), torch.tensor(0.0))
        layer.threshold = lowered
    w.drop("encoder.tied_to._weights", "encoder.tied_to.multiplier")
    w.finish("overcomplete's linear encoder and dictionary")
    if layer.threshold is not None:
        return layer.build("jumprelu", card)
    k = options.k if options.k is not None else whole_number(file, config, "k") or whole_number(file, config, "top_k")
    if k is not None:
        return layer.build("topk", card, k=valid_k(file, k, len(W_dec)))
    return layer.build("relu", card | {"selection": "unknown, all positive codes are kept; load a TopKSAE with k"})
