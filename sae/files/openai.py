"""OpenAI's sparse_autoencoder: a ``.pt`` with the tensors, the name of the activation and its settings.

    z = activation((x - pre_bias) W^T + latent_bias),    x_hat = z D^T + pre_bias

where the activation is TopK, rows are standardised first (mean, unbiased deviation, 1e-5) and the reconstruction goes
back; without a decoder the encoder is its own.
"""

from __future__ import annotations

from functools import partial

from sae.dictionary import Dictionary
from sae.files.found import Given, OpenableDictionary, WeightsFile, card, k_of
from sae.files.layer import Layer

NAME = "openai"


def find(found: WeightsFile) -> list[OpenableDictionary]:
    return (
        [OpenableDictionary("", partial(_read, found))]
        if found.has("pre_bias", "latent_bias", "encoder.weight")
        else []
    )


def _read(found: WeightsFile, _: Given) -> Dictionary:
    w = found.weights()
    tied = "decoder.weight" not in w
    if tied:
        W_dec = w.left["encoder.weight"].read(transposed=False)
        W_enc = w.take("encoder.weight", "m", "d", transposed=True)
    else:
        W_enc = w.take("encoder.weight", "m", "d", transposed=True)
        W_dec = w.take("decoder.weight", "d", "m", transposed=True)
    layer = Layer(W_enc, W_dec, w.take("latent_bias", "m"), w.take("pre_bias", "d"))
    w.drop("stats_last_nonzero", "latents_activation_frequency", "latents_mean_square")
    w.finish("OpenAI's autoencoder")
    activation, told = found.content.get("activation", "ReLU"), card(NAME, found)
    if activation == "ReLU":
        return layer.build("relu", told)
    if activation == "Identity":
        return layer.signed().build("relu", told | {"signed": True})
    settings = found.content.get("activation_state_dict")
    settings = settings if isinstance(settings, dict) else {}
    if activation != "TopK" or settings.get("postact_fn", "ReLU") != "ReLU":
        inner = f" of {str(settings.get('postact_fn'))[:40]}" if activation == "TopK" else ""
        raise found.refused(
            f"the activation {str(activation)[:40]!r}{inner} cannot be read: ReLU, Identity and TopK can"
        )
    k = k_of(found, settings.get("k"), len(layer.b_enc))
    return layer.standardised("topk", "layer_norm", told, k=k)
