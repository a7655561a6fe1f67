"""What sources show of themselves in a report: one file per kind of source, named like it.

Each has ``draw(directory)``, which takes the directory of the source's finished step and yields
``(file name, title, caption, figure)``, the figure None where there is nothing to show; the figures themselves are
pure functions beside it. It may have ``overlay(directory, candidates)`` too, which yields the same of what
dictionaries make of the source, the best one first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from sae.dictionary import Dictionary


class FirstSeedDictionary(NamedTuple):
    """The dictionary of a setting's first seed with the setting's name and its own scores."""

    name: str
    dictionary: Dictionary
    scores: Mapping[str, float]
