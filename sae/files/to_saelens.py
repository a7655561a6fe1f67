"""Our kinds in SAELens' form, so that ``SAE.load_from_disk`` of SAELens 6 opens them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from sae.dictionaries.batchtopk import BatchTopK
from sae.dictionaries.gated import Gated
from sae.dictionaries.jumprelu import JumpReLU
from sae.dictionaries.matching_pursuit import MatchingPursuit
from sae.dictionaries.matryoshka import Matryoshka
from sae.dictionaries.relu import Relu
from sae.dictionaries.standardised import Standardised
from sae.dictionaries.topk import TopK
from sae.dictionaries.transcoder import Transcoder
from sae.dictionary import Dictionary
from sae.encoders.threshold import Threshold
from sae.files.native import save_tensors
from sae.files.saelens import ROWS, SAELENS_CONFIG, SAELENS_WEIGHTS, SOURCE
from sae.numerics.atomic_write import write_atomically
from sae.registry import UserError

VERSION = "6.0.0"
"""The oldest version whose reader takes the form that is written here."""


def save(d: Dictionary, path: Path) -> None:
    """Writes the two files; a ``ValueError`` of one line where SAELens has no place for a dictionary."""
    told, tensors = _written(d)
    config: dict[str, Any] = {
        "d_in": d.d_in,
        "d_sae": d.n_latents,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": VERSION, "sae_lens_training_version": VERSION, **_metadata(d)},
    }
    save_tensors(tensors, path / SAELENS_WEIGHTS)
    write_atomically(path / SAELENS_CONFIG, (json.dumps(config | told, indent=1) + "\n").encode())


def _written(d: Dictionary) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What the config says of the architecture, and the tensors."""
    tensors = {"W_enc": d.W_enc, "W_dec": d.W_dec, "b_enc": d.b_enc, "b_dec": d.b_dec}
    if isinstance(d, Relu):
        return {"architecture": "standard"}, tensors
    if isinstance(d, TopK):
        return {"architecture": "topk", "k": d.k, "rescale_acts_by_decoder_norm": False}, tensors
    if isinstance(d, JumpReLU | BatchTopK | Matryoshka | Threshold):
        return {"architecture": "jumprelu"}, tensors | {"threshold": _positive(d.threshold)}
    if isinstance(d, Gated):
        if bool((d.gain <= 0).any()):
            raise UserError("format 'saelens' writes a gain as an exponential: one of these is not above 0")
        biases = {"b_gate": d.b_enc, "b_mag": d.shift + d.gain * d.b_enc, "r_mag": d.gain.log()}
        return {"architecture": "gated"}, {n: t for n, t in tensors.items() if n != "b_enc"} | biases
    if isinstance(d, MatchingPursuit):
        stops = {"residual_threshold": d.tolerance, "stop_on_duplicate_support": d.until_stable}
        told = {"architecture": "matching_pursuit", "max_iterations": d.k, **stops}
        return told, {"W_dec": d.W_dec, "b_dec": d.b_dec}
    if isinstance(d, Standardised) and (d.rows, d.eps) in ROWS.values():
        told, inner = _written(d.inner)
        name = next(name for name, rows in ROWS.items() if rows == (d.rows, d.eps))
        return told | {"normalize_activations": name, "d_sae": d.n_read}, inner
    if isinstance(d, Transcoder) and d.reader in ("relu", "jumprelu"):
        told, own = {"apply_b_dec_to_input": False, "d_out": d.d_out}, {}
        name = "transcoder" if d.W_skip is None else "skip_transcoder"
        if d.W_skip is not None:
            own["W_skip"] = d.W_skip.T
        if d.threshold is not None:
            name, own["threshold"] = f"jumprelu_{name}", _positive(d.threshold)
        return told | {"architecture": name}, tensors | own
    reader = f" that reads by {d.reader!r}" if isinstance(d, Transcoder) else ""
    raise UserError(
        f"format 'saelens' has no place for a {d.kind!r} dictionary{reader}; relu, topk, gated, matching_pursuit and "
        "those with a threshold can be written"
    )


def _positive(threshold: Tensor) -> Tensor:
    if bool((threshold < 0).any()):
        raise UserError("format 'saelens' has no place for thresholds below 0: its codes are positive")
    return threshold


def _metadata(d: Dictionary) -> dict[str, Any]:
    """What the card knows of the source, under SAELens' names."""
    source = d.card.get("source", {})
    told = {theirs: source[ours] for theirs, ours in SOURCE.items() if source.get(ours) is not None}
    return told | ({"prepend_bos": source["bos"] != "none"} if "bos" in source else {})
