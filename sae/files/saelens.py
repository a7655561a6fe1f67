"""SAELens: ``cfg.json`` and ``sae_weights.safetensors``, those before version 6 as well, and its checkpoints.

`W_enc` is ``[d_in, d_sae]``, `W_dec` ``[d_sae, d_in]`` with a latent per row, as here.

    standard, jumprelu, topk            p = (x - b_dec) W_enc + b_enc, without b_dec where apply_b_dec_to_input is false
    gated                               [p + b_gate > 0] ReLU(exp(r_mag) p + b_mag),  p = (x - b_dec) W_enc
    abstopk                             the k largest of either sign: two latents for each, one a sign
    matching_pursuit                    with its two ways of stopping early
    batchtopk, matryoshka_batchtopk     checkpoints of training: a threshold for all
    transcoder, skip_transcoder, and both with jumprelu

``rescale_acts_by_decoder_norm``, the factor of ``expected_average_only_in`` and the matrix of ``covariance_whitening``
(which stand in files beside a checkpoint) are folded in; ``layer_norm`` and ``constant_norm_rescale`` make a
`standardised` dictionary.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from sae.dictionary import Dictionary
from sae.files.found import Given, OpenableDictionary, WeightsFile, card, k_of, positive, whole
from sae.files.layer import Layer
from sae.files.tensors import NamedWeights
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
"""Their names of what our sources know, and ours."""


def find(found: WeightsFile) -> list[OpenableDictionary]:
    if not found.has("W_dec", "b_dec") or "d_sae" not in found.json(SAELENS_CONFIG):
        return []
    return [OpenableDictionary("", partial(_read, found))]


def _read(found: WeightsFile, given: Given) -> Dictionary:
    config = _present(found.json(SAELENS_CONFIG))
    architecture = str(config["architecture"])
    if architecture not in KINDS:
        known = ", ".join(KINDS)
        raise found.refused(f"architecture {architecture[:40]!r} cannot be read; these can: {known}")
    w, kind = found.weights(), KINDS[architecture]
    _finetuning(w)
    layer, centred = _layer(w, architecture), config.get("apply_b_dec_to_input", True) is not False
    if (d_sae := whole(found, config, "d_sae")) != len(layer.b_enc):
        raise found.refused(f"W_dec has {len(layer.b_enc)} rows, {d_sae} expected by {SAELENS_CONFIG}")
    if architecture in TRANSCODERS:
        return _transcoder(found, w, layer, kind, config)
    settings, told = _settings(found, w, layer, config, architecture), _card(found, config)
    w.finish(f"the architecture {architecture!r}")
    if architecture == "matching_pursuit":
        if not centred:
            layer.b_dec.zero_()  # which is then neither subtracted nor added
        return _pursuit(found, layer, config, given, settings, told)
    if config.get("rescale_acts_by_decoder_norm") is True:
        layer.unit_rows()
    if not centred:
        layer.uncentred()
    normalised = str(config.get("normalize_activations", "none"))
    if normalised == "expected_average_only_in":
        layer.scaled(_factor(found, given))
    elif normalised == "covariance_whitening":
        layer.whitened(*_whitening(found))
    elif normalised not in ("none", *ROWS):
        raise found.refused(f"normalize_activations {str(normalised)[:40]!r} cannot be read")
    if architecture == "abstopk":
        layer.signed()
        told["signed"] = True
    if normalised in ROWS:
        rows, eps = ROWS[normalised]
        return layer.standardised(kind, rows, told, eps, **settings)
    return layer.build(kind, told, **settings)


def _present(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config of before version 6 in the words of today; one of today as it is."""
    renamed = {
        "hook_point": "hook_name",
        "hook_point_head_index": "hook_head_index",
        "activation_fn_str": "activation_fn",
    }
    now = {renamed.get(name, name): value for name, value in config.items()}
    kwargs = now.get("activation_fn_kwargs")
    if now.get("activation_fn") == "topk" and isinstance(kwargs, dict) and "k" in kwargs:
        now |= {"architecture": "topk", "k": kwargs["k"]}
    if isinstance(now.get("normalize_activations"), bool | None):
        now["normalize_activations"] = "expected_average_only_in" if now.get("normalize_activations") else "none"
    now["architecture"] = now.get("architecture") or "standard"
    return now


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
    found: WeightsFile, w: NamedWeights, layer: Layer, config: Mapping[str, Any], architecture: str
) -> dict[str, Any]:
    """What the kind needs beside tensors; the threshold of a checkpoint goes into the layer."""
    m = len(layer.b_enc)
    if architecture in ("topk", "abstopk"):
        return {"k": k_of(found, config.get("k"), m)}
    if architecture in ("batchtopk", "matryoshka_batchtopk"):
        layer.threshold = torch.tensor(w.number("topk_threshold"), dtype=torch.float32)
    if architecture == "matryoshka_batchtopk":
        widths = config.get("matryoshka_widths")
        whole_widths = isinstance(widths, list) and all(type(n) is int for n in widths)
        return {"levels": widths if whole_widths else [m]}
    return {}


def _transcoder(found: WeightsFile, w: NamedWeights, layer: Layer, kind: str, config: Mapping[str, Any]) -> Dictionary:
    skip = w.take("W_skip", "d_out", "d_in", transposed=True) if "W_skip" in w else None
    w.finish(f"the architecture {config['architecture']!r}")
    if (normalised := config.get("normalize_activations", "none")) != "none":
        raise found.refused(f"a transcoder with normalize_activations {str(normalised)[:40]!r} cannot be read")
    return layer.transcoder(kind, _card(found, config), skip)


def _pursuit(
    found: WeightsFile,
    layer: Layer,
    config: Mapping[str, Any],
    given: Given,
    settings: dict[str, Any],
    told: dict[str, Any],
) -> Dictionary:
    """A pursuit is its decoder: what is folded into others' encoders goes into its bias and its tolerance."""
    tolerance = config.get("residual_threshold", 1e-2)
    tolerance = positive(found, tolerance, "residual_threshold") if tolerance != 0 else 0.0
    normalised = str(config.get("normalize_activations", "none"))
    if normalised == "expected_average_only_in":
        factor = _factor(found, given)
        layer.b_dec, tolerance = layer.b_dec / factor, tolerance / factor
    elif normalised not in ("none", *ROWS):
        raise found.refused(f"normalize_activations {str(normalised)[:40]!r} with a pursuit cannot be read")
    steps = whole(found, config, "max_iterations") or layer.W_dec.shape[1]
    settings |= {"k": min(steps, 2**20), "tolerance": tolerance}
    settings["until_stable"] = config.get("stop_on_duplicate_support", True) is True
    if normalised in ROWS:
        rows, eps = ROWS[normalised]
        return layer.standardised("matching_pursuit", rows, told, eps, **settings)
    return layer.build("matching_pursuit", told, **settings)


def _finetuning(w: NamedWeights) -> None:
    """A scaling factor of old files, which has to be one everywhere."""
    for name in ("scaling_factor", "finetuning_scaling_factor"):
        if name in w and not torch.allclose(w.take(name, "d_sae"), torch.ones(1)):
            raise UserError(f"{w.label}: {name} is not 1, which cannot be read")


def _factor(found: WeightsFile, given: Given) -> float:
    """The factor of the input, which stands beside a checkpoint; the finished file does not have it any more."""
    if given.scale is not None:
        return positive(found, given.scale, "scale")
    beside = found.json("activation_scaler.json")
    if beside.get("scaling_factor") is None:
        raise found.refused(
            "rows are to be multiplied by a factor (expected_average_only_in) that is in no file; give scale = ..., "
            "sqrt(d_in) over the mean norm of the activations"
        )
    return positive(found, beside["scaling_factor"], "scaling_factor")


def _whitening(found: WeightsFile) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    beside = found.beside("activation_whitening.safetensors")
    if beside is None:
        raise found.refused("rows are to be whitened, and activation_whitening.safetensors is not beside it")
    w = beside.weights()
    return w.take("mean", "d"), w.take("matrix", "d", "d"), w.take("inverse_matrix", "d", "d")


def _card(found: WeightsFile, config: Mapping[str, Any]) -> dict[str, Any]:
    metadata = config.get("metadata")
    known = {**config, **(metadata if isinstance(metadata, dict) else {})}
    source = {ours: known.get(theirs) for theirs, ours in SOURCE.items()}
    if (bos := known.get("prepend_bos")) is not None:
        source["bos"] = "row" if bos else "none"
    return card(NAME, found, config, **source)
