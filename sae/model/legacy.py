"""Models on the hub in TransformerLens' legacy format, such as the one-layer GELU and SoLU models.

Their repositories hold a state dict and a config that Hugging Face cannot load, and name a tokenizer of another
repository. TransformerLens 4 loads them with ``boot_tl_legacy``, without changing the weights.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from sae.registry import UserError

OWNERS = ("NeelNanda/", "ArthurConmy/", "Baidicoot/")
"""Hub accounts whose models TransformerLens treats as legacy."""


def is_legacy(name: str) -> bool:
    """Whether a hub id belongs to a legacy model."""
    return name.startswith(OWNERS)


def boot_legacy(name: str, device: str, dtype: torch.dtype, revision: str | None) -> Any:
    """Loads a legacy model as a TransformerLens Bridge.

    Raises `UserError` if a revision is given, if TransformerLens is too old, or if it does not support the model.
    """
    from transformer_lens.model_bridge import TransformerBridge

    if revision is not None:
        raise UserError(f"revision = {revision!r}: TransformerLens loads legacy models without one; leave it out")
    boot: Any = getattr(TransformerBridge, "boot_tl_legacy", None)
    if boot is None:
        raise UserError(
            "TransformerLens' legacy format needs transformer_lens 4; run: pip install 'transformer_lens>=4'"
        )
    try:
        return boot(name, device=device, dtype=dtype)
    except NotImplementedError as error:
        raise UserError(str(error)) from None


def tokenizer_of(name: str) -> str:
    """The hub id of a legacy model's tokenizer: ``tokenizer_name`` of its config, by default the model's own id."""
    from huggingface_hub import hf_hub_download

    config = json.loads(Path(hf_hub_download(name, "config.json")).read_text(encoding="utf-8"))
    return config.get("tokenizer_name") or name
