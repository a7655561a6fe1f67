"""The card of a dictionary: what is added to it once the dictionary is scored, and its entries as printed lines."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FACTS = ("model_revision", "processing", "excluded_token_ids", "unique_tokens", "transformer_lens", "transformers")
"""What a source of a model's activations knows beyond its settings."""


def flatten(rows: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested settings in lines of their own, named by their path."""
    found: list[tuple[str, Any]] = []
    for name, value in rows.items():
        if isinstance(value, Mapping) and value and prefix.count(".") < 4:
            found += flatten(value, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", value))
    return found


def shorten(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return "".join(c if c.isprintable() else " " for c in text[:200]) + ("..." if len(text) > 200 else "")


def complete_card(dictionary: Path, source: Path, scores: Mapping[str, float]) -> None:
    """Adds to a saved dictionary's card what is known once it is scored: its scores, and the facts of its source."""
    from sae.files.native import HEADER, read_header
    from sae.numerics.atomic_write import write_atomically

    header = read_header(dictionary / HEADER)
    file = source / "source.json"
    known = json.loads(file.read_text()) if file.is_file() else {}
    card = header["card"] | {name: known[name] for name in FACTS if known.get(name) is not None}
    card["scores"] = {name: value for name, value in scores.items() if math.isfinite(value)}
    write_atomically(
        dictionary / HEADER, (json.dumps(header | {"card": card}, indent=1, sort_keys=True) + "\n").encode()
    )
