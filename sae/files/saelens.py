"""SAELens: ``cfg.json`` and ``sae_weights.safetensors``, also from before version 6, and its training checkpoints.

`W_enc` is ``[d_in, d_sae]``, `W_dec` ``[d_sae, d_in]`` with one latent per row, as here.

    standard, jumprelu, topk            p = (x - b_dec) W_enc + b_enc, without b_dec where apply_b_dec_to_input is false
    gated                               [p + b_gate > 0] ReLU(exp(r_mag) p + b_mag),  p = (x - b_dec) W_enc
    abstopk                             the k largest of either sign: two latents here for each, one per sign
    matching_pursuit                    with its two early stopping rules
    batchtopk, matryoshka_batchtopk     checkpoints of training: one threshold for all
    transcoder, skip_transcoder, and both with jumprelu

``rescale_acts_by_decoder_norm``, the factor of ``expected_average_only_in`` and the matrix of ``covariance_whitening``
(both in files next to a checkpoint) are folded into the weights; ``layer_norm`` and ``constant_norm_rescale`` give a
`standardised` dictionary.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from sae.dictionary import Dictionary
from sae.files.layer import Layer
from sae.files.tensors import NamedWeights
from sae.files.weights_file import (
    LoadOptions,
    OpenableDictionary,
    WeightsFile,
    positive_number,
    source_card,
    valid_k,
    whole_number,
)
from sae.registry import UserError

NAME = "saelens"
SAELENS_CONFIG = "cfg.json"
SAELENS_WEIGHTS = "sae_weights.safetensors"
TRANSCODERS = {"transcoder": "relu", "skip_transcoder": "relu",
               "jumprelu_transcoder": "jumprelu", "jumprelu_skip_transcoder": "jumprelu"}  # fmt: skip
KINDS = {"standard": "relu", "jumprelu": "jumprelu", "gated": "gated", "topk": "topk", "abstopk": "topk",
         "matching_pursuit": "matching_pursuit", "batchtopk": "batchtopk", "matryoshka_batchtopk": "matryoshka",
         **TRANSCODERS}  # fmt: skip
ROWS = {"layer_norm": ("layer_norm", 1e-5), "constant_norm_rescale": ("norm", 0.0)}
SOURCE = {"model_name": "model", "hook_name": "hook", "hook_name_out": "target", "context_size": "context",
          "dataset_path": "text", "hook_head_index": "head"}  # fmt: skip
"""SAELens' names of the facts about a source, and the names on cards."""


def find(file: WeightsFile) -> list[OpenableDictionary]:
    if not file.has("W_dec", "b_dec") or "d_sae" not in file.json(SAELENS_CONFIG):
        return []
    return [OpenableDictionary("", partial(_read, file))]


def _read(file: WeightsFile, options: LoadOptions) -> Dictionary:
    config = _version_6(file.json(SAELENS_CONFIG))
    architecture = str(config["architecture"])
    if architecture not in KINDS:
        known = ", ".join(KINDS)
        raise file.error(f"architecture {architecture[:40]!r} is not supported; supported are {known}")
    w, kind = file.weights(), KINDS[architecture]
    _finetuning(w)
    layer, centred = _layer(w, architecture), config.get("apply_b_dec_to_input", True) is not False
    if (d_sae := whole_number(file, config, "d_sae")) != len(layer.b_enc):
        raise file.error(f"W_dec has {len(layer.b_enc)} rows; {SAELENS_CONFIG} has d_sae = {d_sae}")
    if architecture in TRANSCODERS:
        return _transcoder(file, w, layer, kind, config)
    settings, card = _settings(file, w, layer, config, architecture), _card(file, config)
    w.finish(f"the architecture {architecture!r}")
    if architecture == "matching_pursuit":
        if not centred:
            layer.b_dec.zero_()  # a pursuit without centring neither subtracts nor adds b_dec
        return _pursuit(file, layer, config, options, settings, card)
    if config.get("rescale_acts_by_decoder_norm") is True:
        layer.fold_decoder_norms()
    if not centred:
        layer.to_centred()
    normalised = str(config.get("normalize_activations", "none"))
    if normalised == "expected_average_only_in":
        layer.fold_input_scale(_factor(file, options))
    elif normalised == "covariance_whitening":
        layer.fold_whitening(*_whitening(file))
    elif normalised not in ("none", *ROWS):
        raise file.error(f"normalize_activations {str(normalised)[:40]!r} is not supported")
    if architecture == "abstopk":
        layer.split_signs()
        card["signed"] = True
    if normalised in ROWS:
        rows, eps = ROWS[normalised]
        return layer.standardised(kind, rows, card, eps, **settings)
    return layer.build(kind, card, **settings)


def _version_6(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with the keys of version 6; older keys are renamed."""
    renamed = {
        "hook_point": "hook_name",
        "hook_point_head_index": "hook_head_index",
        "activation_fn_str": "activation_fn",
    }
    current = {renamed.get(name, name): value for name, value in config.items()}
    kwargs = current.get("activation_fn_kwargs")
    if current.get("activation_fn") == "topk" and isinstance(kwargs, dict) and "k" in kwargs:
        current |= {"architecture": "topk", "k": kwargs["k"]}
    if isinstance(normalise := current.get("normalize_activations"), bool | None):
        current["normalize_activations"] = "expected_average_only_in" if normalise else "none"
    current["architecture"] = current.get("architecture") or "standard"
    return current


def _layer(w: NamedWeights, architecture: str) -> Layer:
    """The tensors of an architecture."""
    W_dec, b_dec = w.take("W_dec", "d_sae", "d_out"), w.take("b_dec", "d_out")
    if architecture == "matching_pursuit":
        return Layer(W_dec.T.contiguous(), W_dec, torch.zeros(len(W_dec)), b_dec)
    d = "d_in" if architecture in TRANSCODERS else "d_out"
    if architecture != "gated":
        layer = Layer(w.take("W_enc", d, "d_sae"), W_dec, w.take("b_enc", "d_sae"), b_dec)
        if "jumprelu" in architecture:
            layer.threshold = w.take("threshold", "d_sae")
        return layer
    gate, gain = w.take("b_gate", "d_sae"), w.take("r_mag", "d_sae").exp()
    shift = w.take("b_mag", "d_sae") - gain * gate
    return Layer(w.take("W_enc", d, "d_sae"), W_dec, gate, b_dec, gain=gain, shift=shift)


def _settings(
    file: WeightsFile, w: NamedWeights, layer: Layer, config: Mapping[str, Any], architecture: str
) -> dict[str, Any]:
    """The settings of the kind; the threshold of a checkpoint is set on the layer."""
    m = len(layer.b_enc)
    if architecture in ("topk", "abstopk"):
        return {"k": valid_k(file, config.get("k"), m)}
    if architecture in ("batchtopk", "matryoshka_batchtopk"):
        layer.threshold = torch.tensor(w.number("topk_threshold"), dtype=torch.float32)
    if architecture == "matryoshka_batchtopk":
        widths = config.get("matryoshka_widths")
        whole_widths = isinstance(widths, list) and all(type(n) is int for n in widths)
        return {"levels": widths if whole_widths else [m]}
    return {}


def _transcoder(file: WeightsFile, w: NamedWeights, layer: Layer, kind: str, config: Mapping[str, Any]) -> Dictionary:
    skip = w.take("W_skip", "d_out", "d_in", transposed=True) if "W_skip" in w else None
    w.finish(f"the architecture {config['architecture']!r}")
    if (normalised := config.get("normalize_activations", "none")) != "none":
        raise file.error(f"a transcoder with normalize_activations {str(normalised)[:40]!r} is not supported")
    return layer.transcoder(kind, _card(file, config), skip)


def _pursuit(
    file: WeightsFile,
    layer: Layer,
    config: Mapping[str, Any],
    options: LoadOptions,
    settings: dict[str, Any],
    card: dict[str, Any],
) -> Dictionary:
    """A matching pursuit dictionary. It has no encoder weights, so the input factor is folded into `b_dec` and the
    tolerance."""
    tolerance = config.get("residual_threshold", 1e-2)
    tolerance = positive_number(file, tolerance, "residual_threshold") if tolerance != 0 else 0.0
    normalised = str(config.get("normalize_activations", "none"))
    if normalised == "expected_average_only_in":
        factor = _factor(file, options)
        layer.b_dec, tolerance = layer.b_dec / factor, tolerance / factor
    elif normalised not in ("none", *ROWS):
        raise file.error(f"normalize_activations {str(normalised)[:40]!r} is not supported for matching_pursuit")
    steps = whole_number(file, config, "max_iterations") or layer.W_dec.shape[1]
    settings |= {"k": min(steps, 2**20), "tolerance": tolerance}
    settings["until_stable"] = config.get("stop_on_duplicate_support", True) is True
    if normalised in ROWS:
        rows, eps = ROWS[normalised]
        return layer.standardised("matching_pursuit", rows, card, eps, **settings)
    return layer.build("matching_pursuit", card, **settings)


def _finetuning(w: NamedWeights) -> None:
    """Takes the scaling factors of old files. Raises `UserError` where one is not 1."""
    for name in ("scaling_factor", "finetuning_scaling_factor"):
        if name in w and not torch.allclose(w.take(name, "d_sae"), torch.ones(1)):
            raise UserError(f"{w.label}: {name} is not 1, which is not supported")


def _factor(file: WeightsFile, options: LoadOptions) -> float:
    """The factor of the input. Checkpoints have it in a file next to them; finished dictionaries lack it."""
    if options.scale is not None:
        return positive_number(file, options.scale, "scale")
    scaler = file.json("activation_scaler.json")
    if scaler.get("scaling_factor") is None:
        raise file.error(
            "it was trained on scaled activations (expected_average_only_in), and no file has the factor; "
            "give scale = sqrt(d_in) / mean norm of the activations"
        )
    return positive_number(file, scaler["scaling_factor"], "scaling_factor")


def _whitening(file: WeightsFile) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    sibling = file.sibling("activation_whitening.safetensors")
    if sibling is None:
        raise file.error("it was trained on whitened activations; activation_whitening.safetensors is missing")
    w = sibling.weights()
    return w.take("mean", "d"), w.take("matrix", "d", "d"), w.take("inverse_matrix", "d", "d")


def _card(file: WeightsFile, config: Mapping[str, Any]) -> dict[str, Any]:
    metadata = config.get("metadata")
    known = {**config, **(metadata if isinstance(metadata, dict) else {})}
    source = {ours: known.get(theirs) for theirs, ours in SOURCE.items()}
    if (bos := known.get("prepend_bos")) is not None:
        source["bos"] = "row" if bos else "none"
    return source_card(NAME, file, config, **source)
