"""Figures specific to a kind of source: one module per kind, with the name of the kind.

``draw(directory)`` takes the directory of the source's finished step and yields ``(file name, title, caption,
figure)``, with figure None if there is nothing to show. The optional ``overlay(directory, candidates)`` yields the
same for dictionaries trained on the source, given with the best one first. Figures are drawn by pure functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from sae.dictionary import Dictionary


class FirstSeedDictionary(NamedTuple):
    """The dictionary of the first seed of a setting."""

    name: str
    """Title of the setting."""
    dictionary: Dictionary
    """The dictionary."""
    scores: Mapping[str, float]
    """The scores of this dictionary."""
