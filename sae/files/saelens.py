"""SAELens' inference form (sae-lens 6): ``cfg.json`` and ``sae_weights.safetensors``, architecture ``standard``.

    z = ReLU((x - b_dec) W_enc + b_enc)   where ``apply_b_dec_to_input``,   else   z = ReLU(x W_enc + b_enc)

`W_enc` is ``[d_in, d_sae]``, `W_dec` ``[d_sae, d_in]`` with a latent per row, as here.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from sae.dictionaries.relu import Relu
from sae.dictionary import Dictionary
from sae.files.native import check_shapes, read_tensors, write_whole

CONFIG = "cfg.json"
WEIGHTS = "sae_weights.safetensors"
VERSION = "6.0.0"
"""The oldest version whose reader takes the form that is written here."""


def is_saelens(path: Path) -> bool:
    """Whether a folder looks like SAELens' form."""
    return (path / CONFIG).is_file() and (path / WEIGHTS).is_file()


def load_saelens(path: Path) -> Dictionary:
    """Reads a folder that SAELens wrote; only the ``standard`` architecture without input normalisation."""
    config = json.loads((path / CONFIG).read_text())
    architecture, normalisation = config.get("architecture"), config.get("normalize_activations", "none")
    if architecture != "standard":
        raise ValueError(f"{path / CONFIG}: architecture {architecture!r} cannot be read, 'standard' can")
    if normalisation != "none":
        raise ValueError(f"{path / CONFIG}: normalize_activations {normalisation!r} cannot be read, 'none' can")
    tensors = {name: t.float() for name, t in read_tensors(path / WEIGHTS).items()}
    check_shapes(tensors, path / WEIGHTS)
    extra = set(tensors) - {"W_enc", "W_dec", "b_enc", "b_dec"}
    if extra:
        raise ValueError(f"{path / WEIGHTS}: the tensor {sorted(extra)[0]} does not belong to 'standard'")
    if not config.get("apply_b_dec_to_input", True):
        # z = ReLU(x W + b) = ReLU((x - b_dec) W + (b + b_dec W))
        tensors["b_enc"] = tensors["b_enc"] + tensors["b_dec"] @ tensors["W_enc"]
    return Relu(**tensors, card={"format": "saelens", "metadata": config.get("metadata", {})})


def save_saelens(d: Dictionary, path: Path) -> None:
    """Writes a ReLU dictionary so that ``SAE.load_from_disk`` of SAELens 6 opens it."""
    from safetensors.torch import save

    if not isinstance(d, Relu):
        raise ValueError(f"format 'saelens' has no place for a {d.kind!r} dictionary; 'relu' can be written")
    config = {
        "architecture": "standard",
        "d_in": d.d_in,
        "d_sae": d.n_latents,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": VERSION, "sae_lens_training_version": VERSION, **_hook(d)},
    }
    path.mkdir(parents=True, exist_ok=True)
    tensors = {n: t.detach().to("cpu", torch.float32) for n, t in d.tensors().items()}
    tensors = {n: t.clone(memory_format=torch.contiguous_format) for n, t in tensors.items()}  # none may share memory
    write_whole(path / WEIGHTS, save(tensors))
    write_whole(path / CONFIG, (json.dumps(config, indent=1) + "\n").encode())


def _hook(d: Dictionary) -> dict[str, str]:
    """What the card knows of the model, under SAELens' names."""
    source = d.card.get("source", {})
    names = {"model_name": "model", "hook_name": "hook", "context_size": "context"}
    return {theirs: source[ours] for theirs, ours in names.items() if ours in source}
