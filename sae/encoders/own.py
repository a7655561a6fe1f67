"""The dictionary's own encoder, as it was trained."""

from __future__ import annotations

from typing import Literal

from sae.dictionary import Dictionary
from sae.encoder import EncoderConfig
from sae.source import Source


class Config(EncoderConfig):
    """Leaves the dictionary as it is; there are no settings."""

    kind: Literal["own"] = "own"

    def fit(self, d: Dictionary, source: Source | None, seed: int) -> Dictionary:
        return d
