"""Models on the hub in TransformerLens' own older format: one-layer GELU and SoLU models and their like.

Their repositories hold a state dict and a config that Hugging Face's loader does not know, and name a tokenizer that
lies elsewhere. TransformerLens 4 boots them by a loader of their own (`boot_tl_legacy`), weights as they are.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from sae.registry import UserError

OWNERS = ("NeelNanda/", "ArthurConmy/", "Baidicoot/")
"""Whose models TransformerLens takes to be of that format."""


def is_older(name: str) -> bool:
    """Whether a hub id is of such a model."""
    return name.startswith(OWNERS)


def boot_older(name: str, device: str, dtype: torch.dtype, revision: str | None) -> Any:
    """TransformerLens' object. Raises ``ValueError`` where this version has no such loader, or cannot serve it."""
    from transformer_lens.model_bridge import TransformerBridge

    if revision is not None:
        raise UserError(f"revision = {revision!r}: models of this format have one; leave it out")
    boot: Any = getattr(TransformerBridge, "boot_tl_legacy", None)
    if boot is None:
        raise UserError("it is in TransformerLens' older format, which takes transformer_lens 4 to read")
    try:
        return boot(name, device=device, dtype=dtype)
    except NotImplementedError as error:
        raise UserError(str(error)) from None


def tokenizer_of(name: str) -> str:
    """The name of the tokenizer that the model's config gives; the model's own where it gives none."""
    from huggingface_hub import hf_hub_download

    config = json.loads(Path(hf_hub_download(name, "config.json")).read_text(encoding="utf-8"))
    return config.get("tokenizer_name") or name
