"""A source of your own: features with exponential amplitudes. `sae run CONFIG --plugin spikes_source.py`."""

from pathlib import Path
from typing import Literal

import torch

from sae.numerics.seeds import generator
from sae.source import Batch, Progress, Source, SourceConfig, Split, Truth


class Spikes(Source):
    def __init__(self, config: "SpikesConfig") -> None:
        self.config, self.d_in = config, config.d_in
        rows = torch.randn(config.n_features, config.d_in, generator=generator("spikes", config.seed))
        present = torch.ones(config.n_features, dtype=torch.bool)
        self.truth = Truth(rows / rows.norm(dim=-1, keepdim=True), present, present * config.probability)

    def batch(self, step: int, size: int, split: Split = "train") -> Batch:
        draw = generator("spikes", self.config.seed, split, step)  # a function of seed, split and step, nothing else
        active = torch.rand(size, self.config.n_features, generator=draw) < self.config.probability
        codes = torch.empty(active.shape).exponential_(generator=draw) * active
        return Batch(codes @ self.truth.directions, codes)


class SpikesConfig(SourceConfig):
    kind: Literal["spikes"] = "spikes"
    n_features: int = 64
    d_in: int = 32
    probability: float = 0.1
    provides = property(lambda self: frozenset({"truth", "codes"}))

    def prepare(self, directory: Path, progress: Progress, device: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)  # nothing to prepare: batches are drawn as they are needed

    def open(self, directory: Path, device: str) -> Source:
        return self.mark(Spikes(self))  # cards of dictionaries then have these settings
