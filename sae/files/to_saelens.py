"""Writing dictionaries in SAELens' format, so that ``SAE.load_from_disk`` of SAELens 6 opens them."""

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
from sae.dictionary import Dictionary, card_table
from sae.encoders.threshold import Threshold
from sae.files.native import save_tensors
from sae.files.saelens import ROWS, SAELENS_CONFIG, SAELENS_WEIGHTS, SOURCE
from sae.numerics.atomic_write import write_atomically
from sae.registry import UserError

VERSION = "6.0.0"
"""The oldest version of SAELens that reads the files written here."""


def save(d: Dictionary, path: Path) -> None:
    """Writes the two files. Raises `UserError` where the format cannot store the dictionary."""
    architecture, tensors = _written(d)
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
    write_atomically(path / SAELENS_CONFIG, (json.dumps(config | architecture, indent=1) + "\n").encode())


def can_store(d: Dictionary) -> bool:
    """Whether the format has a kind that does what the dictionary does."""
    try:
        _written(d)
    except UserError:
        return False
    return True


def _written(d: Dictionary) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The entries of the config for the architecture, and the tensors."""
    tensors = {"W_enc": d.W_enc, "W_dec": d.W_dec, "b_enc": d.b_enc, "b_dec": d.b_dec}
    if isinstance(d, Relu):
        return {"architecture": "standard"}, tensors
    if isinstance(d, TopK):
        return {"architecture": "topk", "k": d.k, "rescale_acts_by_decoder_norm": False}, tensors
    if isinstance(d, JumpReLU | BatchTopK | Matryoshka | Threshold):
        return {"architecture": "jumprelu"}, tensors | {"threshold": _positive(d.threshold)}
    if isinstance(d, Gated):
        if bool((d.gain <= 0).any()):
            raise UserError("format = 'saelens': stores only positive gains; use format 'native'")
        biases = {"b_gate": d.b_enc, "b_mag": d.shift + d.gain * d.b_enc, "r_mag": d.gain.log()}
        return {"architecture": "gated"}, {n: t for n, t in tensors.items() if n != "b_enc"} | biases
    if isinstance(d, MatchingPursuit):
        stops = {"residual_threshold": d.tolerance, "stop_on_duplicate_support": d.until_stable}
        entries = {"architecture": "matching_pursuit", "max_iterations": d.k, **stops}
        return entries, {"W_dec": d.W_dec, "b_dec": d.b_dec}
    if isinstance(d, Standardised) and (d.rows, d.eps) in ROWS.values():
        entries, inner = _written(d.inner)
        name = next(name for name, rows in ROWS.items() if rows == (d.rows, d.eps))
        return entries | {"normalize_activations": name, "d_sae": d.n_read}, inner
    if isinstance(d, Transcoder) and d.reader in ("relu", "jumprelu"):
        entries, extra = {"apply_b_dec_to_input": False, "d_out": d.d_out}, dict[str, Tensor]()
        name = "transcoder" if d.W_skip is None else "skip_transcoder"
        if d.W_skip is not None:
            extra["W_skip"] = d.W_skip.T
        if d.threshold is not None:
            name, extra["threshold"] = f"jumprelu_{name}", _positive(d.threshold)
        return entries | {"architecture": name}, tensors | extra
    reader = f" with a {d.reader!r} encoder" if isinstance(d, Transcoder) else ""
    raise UserError(
        f"format = 'saelens': cannot store a {d.kind!r} dictionary{reader}, only relu, topk, gated, matching_pursuit "
        "and kinds with thresholds; use format 'native'"
    )


def _positive(threshold: Tensor) -> Tensor:
    if bool((threshold < 0).any()):
        raise UserError("format = 'saelens': stores only thresholds from 0 on; use format 'native'")
    return threshold


def _metadata(d: Dictionary) -> dict[str, Any]:
    """The facts about the source on the card, under SAELens' names."""
    source = card_table(d.card, "source")
    facts = {theirs: source[ours] for theirs, ours in SOURCE.items() if source.get(ours) is not None}
    return facts | ({"prepend_bos": source["bos"] != "none"} if "bos" in source else {})
