"""OpenAI's sparse_autoencoder: a ``.pt`` with the tensors, the name of the activation and its settings.

    z = activation((x - pre_bias) W^T + latent_bias),    x_hat = z D^T + pre_bias

With TopK the activations are standardised first (mean, unbiased deviation, 1e-5), and the reconstruction is converted
back. A file without a decoder has tied weights.
"""

from __future__ import annotations

from functools import partial

from sae.dictionary import Dictionary
from sae.files.layer import Layer
from sae.files.weights_file import LoadOptions, OpenableDictionary, WeightsFile, source_card, valid_k

NAME = "openai"


def find(file: WeightsFile) -> list[OpenableDictionary]:
    return (
        [OpenableDictionary("", partial(_read, file))] if file.has("pre_bias", "latent_bias", "encoder.weight") else []
    )


def _read(file: WeightsFile, _: LoadOptions) -> Dictionary:
    w = file.weights()
    tied = "decoder.weight" not in w
    if tied:
        W_dec = w.remaining["encoder.weight"].read(transposed=False)
        W_enc = w.take("encoder.weight", "m", "d", transposed=True)
    else:
        W_enc = w.take("encoder.weight", "m", "d", transposed=True)
        W_dec = w.take("decoder.weight", "d", "m", transposed=True)
    layer = Layer(W_enc, W_dec, w.take("latent_bias", "m"), w.take("pre_bias", "d"))
    w.drop("stats_last_nonzero", "latents_activation_frequency", "latents_mean_square")
    w.finish("OpenAI's autoencoder")
    activation, card = file.content.get("activation", "ReLU"), source_card(NAME, file)
    if activation == "ReLU":
        return layer.build("relu", card)
    if activation == "Identity":
        return layer.split_signs().build("relu", card | {"signed": True})
    settings = file.content.get("activation_state_dict")
    settings = settings if isinstance(settings, dict) else {}
    if activation != "TopK" or settings.get("postact_fn", "ReLU") != "ReLU":
        inner = f" of {str(settings.get('postact_fn'))[:40]}" if activation == "TopK" else ""
        raise file.error(f"activation {str(activation)[:40]!r}{inner} is not supported; ReLU, Identity and TopK are")
    k = valid_k(file, settings.get("k"), len(layer.b_enc))
    return layer.standardised("topk", "layer_norm", card, k=k)
