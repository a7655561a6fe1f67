"""Models of TransformerLens' own form in a local folder, such as those of ``source.kind = "language"``.

The folder has ``config.json``, whose ``architectures`` are ``["TransformerLensNative"]`` and whose other entries are
the settings of TransformerLens' native model; ``model.safetensors``, with the weights under the names that the Bridge
gives them; and a tokenizer in Hugging Face's format.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae.numerics.atomic_write import write_atomically
from sae.numerics.state_files import write_state
from sae.registry import UserError

ARCHITECTURE = "TransformerLensNative"
CONFIG, WEIGHTS = "config.json", "model.safetensors"
OUTPUT_BIAS = "unembed.bias"
"""The bias that the Bridge adds to the output head; 0 where the file has none."""


def is_native(config: Mapping[str, Any]) -> bool:
    """Whether a model of this ``config.json`` is of TransformerLens' own form."""
    return config.get("architectures") == [ARCHITECTURE]


def write_native(folder: Path, settings: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Writes the weights and then the settings of a model; its tokenizer is not written here."""
    write_state(folder / WEIGHTS, weights)
    write_settings(folder, settings)


def write_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Writes the ``config.json``, without which no tokenizer is loaded from the folder either."""
    config = {"architectures": [ARCHITECTURE], **settings}
    write_atomically(folder / CONFIG, (json.dumps(config, indent=1) + "\n").encode())


def boot_native(name: str, config: Mapping[str, Any], device: str, dtype: torch.dtype) -> Any:
    """The model in the folder `name` as a TransformerLens Bridge, with its tokenizer.

    Raises `UserError` where the settings or the weights are not those of such a model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoTokenizer

    given = {key: value for key, value in config.items() if key != "architectures"}
    file = Path(name) / WEIGHTS
    try:
        settings = TransformerBridgeConfig(**given, architecture=ARCHITECTURE, init_weights=False)
        tokenizer = AutoTokenizer.from_pretrained(name)
        boot: Any = TransformerBridge.boot_native  # pyright: ignore[reportAttributeAccessIssue]
        bridge = boot(settings, tokenizer=tokenizer, device=device, dtype=dtype, model_name=name)
        weights = load_file(file)
        weights.setdefault(OUTPUT_BIAS, torch.zeros(settings.d_vocab))
        bridge.load_state_dict(weights, strict=True)
    except (TypeError, ValueError, OSError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"model = {name!r}: the model cannot be loaded: {reason}; make it again") from None
    return bridge
