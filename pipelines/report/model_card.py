"""The card of a dictionary: entries that are added after scoring, and its entries as printed lines."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def flatten(entries: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested settings as a flat list of dotted paths and values."""
    flat: list[tuple[str, Any]] = []
    for name, value in entries.items():
        if isinstance(value, Mapping) and value and prefix.count(".") < 4:
            flat += flatten(value, f"{prefix}{name}.")
        else:
            flat.append((f"{prefix}{name}", value))
    return flat


def shorten(value: Any) -> str:
    """A value as one printable line of at most 200 characters."""
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return "".join(c if c.isprintable() else " " for c in text[:200]) + ("..." if len(text) > 200 else "")


def complete_card(dictionary: Path, source: Path, scores: Mapping[str, float]) -> None:
    """Adds the scores and the facts of the source to the card of a saved dictionary."""
    from sae.files.native import HEADER, read_header
    from sae.numerics.atomic_write import write_atomically
    from sae.numerics.card import model_facts

    header = read_header(dictionary / HEADER)
    file = source / "source.json"
    known = json.loads(file.read_text()) if file.is_file() else {}
    card = header["card"] | model_facts(known)
    card["scores"] = {name: value for name, value in scores.items() if math.isfinite(value)}
    write_atomically(
        dictionary / HEADER, (json.dumps(header | {"card": card}, indent=1, sort_keys=True) + "\n").encode()
    )
