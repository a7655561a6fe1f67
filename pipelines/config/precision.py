"""The shape of a dictionary's training, by which the choice of ``train.precision = "auto"`` is known."""

from __future__ import annotations

from typing import NamedTuple

from sae.architecture import DictionaryConfig
from sae.source import SourceConfig
from sae.training.config import TrainConfig

ASSUMED_WIDTH = 1024
"""The width at which products are timed where that of the activations is not known before a model is loaded."""


class Shape(NamedTuple):
    """What the time of the encoder's product depends on, beside the machine."""

    d_in: int | None
    """Width of the activations; None where it is not known when a run is planned."""
    n_latents: int
    """Width of the dictionary."""
    batch: int
    """Samples per step."""

    @classmethod
    def of(cls, source: SourceConfig, dictionary: DictionaryConfig, training: TrainConfig) -> Shape:
        """The shape of a dictionary on a source."""
        return cls(source.planned_width, dictionary.n_latents, training.batch_size)

    @property
    def width(self) -> int:
        """The width at which products are timed."""
        return self.d_in or ASSUMED_WIDTH

    @property
    def name(self) -> str:
        """The name under which a choice is kept, e.g. ``768x24576 batch=2048``."""
        return f"{self.d_in or 'unknown'}x{self.n_latents} batch={self.batch}"
