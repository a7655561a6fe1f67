"""Tokens and numbers as text on a page."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Callable
from typing import Any

from pipelines.report.numbers import MINUS, number
from sae.activations.disk_source import Activations
from sae.model.loading import load_tokenizer
from sae.source import Source
from sae.sources.transformer import Config as Transformer

Words = Callable[[int], str]
"""Function from a token id to its text."""
GLYPHS = {"\n": "↵", "\t": "⇥", "\r": "␍"}


def vocabulary(source: Source) -> Words:
    """The text of a source's tokens: as in a text if there is a tokenizer, else their numbers."""
    if not isinstance(source, Activations) or not isinstance(source.config, Transformer):
        return lambda token: f" {token}"
    tokenizer = load_tokenizer(source.config.model, source.config.revision)
    known: dict[int, str] = {}

    def word(token: int) -> str:
        if token not in known:
            known[token] = _word(tokenizer, token)
        return known[token]

    return word


def _word(tokenizer: Any, token: int) -> str:
    """The text that a second copy of a token adds; many tokenizers drop the leading space of a single token."""
    once, twice = (tokenizer.decode([token] * n, clean_up_tokenization_spaces=False) for n in (1, 2))
    text = twice[len(once) :] or once
    if "\ufffd" in text:  # part of a character: its bytes, as the tokenizer writes them
        text = str(tokenizer.convert_ids_to_tokens(token))
    return visible(text)


def visible(text: str) -> str:
    """Text without control characters: line ends and tabs as glyphs, other unprintable characters as escapes."""
    return "".join(GLYPHS.get(c, c) if c.isprintable() or c in GLYPHS else f"\\u{ord(c):04x}" for c in _plain(text))


def _plain(text: str) -> str:
    return "".join(" " if unicodedata.category(c) == "Zs" else c for c in text)


def percent(share: float) -> str:
    """A share in per cent with two significant digits."""
    if not math.isfinite(share):
        return number(share)
    if share == 0:
        return "0"
    digits = max(0, 1 - math.floor(math.log10(abs(share) * 100) + 1e-9))
    return f"{share * 100:.{min(digits, 6)}f}%".replace("-", MINUS)


def plain(x: float) -> str:
    """A number; a dash for NaN."""
    return number(x).replace("-", MINUS)


def signed(x: float) -> str:
    """A number with its sign; a dash for NaN."""
    return f"{'+' if x > 0 else ''}{plain(x)}"


def script(value: Any) -> str:
    """JSON that is safe in a script, inline or in a file: ASCII without ``<``, ``>`` and ``&``."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def rounded(x: float) -> float | None:
    """A number with four significant digits; None if it is not finite."""
    return float(f"{x:.4g}") if math.isfinite(x) else None
