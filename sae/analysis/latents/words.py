"""Tokens as text for people: what a token adds to a text, with line ends and other invisible characters shown."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import Any

from sae.activations.disk_source import Activations
from sae.source import Source

Words = Callable[[int], str]
"""Function from a token id to its text."""
GLYPHS = {"\n": "↵", "\t": "⇥", "\r": "␍"}


def vocabulary(source: Source, raw: bool = False) -> Words:
    """The text of a source's tokens: as in a text if there is a tokenizer, else their numbers. With `raw`, line ends
    and other control characters stay as they are."""
    if not isinstance(source, Activations) or source.tokenizer is None:
        return lambda token: f" {token}"
    return words_of(source.tokenizer(), raw)


def words_of(tokenizer: Any, raw: bool = False) -> Words:
    """The text of a tokenizer's tokens."""
    known: dict[int, str] = {}

    def word(token: int) -> str:
        if token not in known:
            text = _word(tokenizer, token)
            known[token] = text if raw else visible(text)
        return known[token]

    return word


def _word(tokenizer: Any, token: int) -> str:
    """The text that a second copy of a token adds; many tokenizers drop the leading space of a single token."""
    once, twice = (tokenizer.decode([token] * n, clean_up_tokenization_spaces=False) for n in (1, 2))
    text = twice[len(once) :] or once
    if "\ufffd" in text:  # part of a character: its bytes, as the tokenizer writes them
        text = str(tokenizer.convert_ids_to_tokens(token))
    return text


def visible(text: str) -> str:
    """Text without control characters: line ends and tabs as glyphs, other unprintable characters as escapes."""
    return "".join(GLYPHS.get(c, c) if c.isprintable() or c in GLYPHS else f"\\u{ord(c):04x}" for c in _plain(text))


def _plain(text: str) -> str:
    return "".join(" " if unicodedata.category(c) == "Zs" else c for c in text)
