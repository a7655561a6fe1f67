"""A source with targets and known features, for tests of transcoders."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from sae.numerics.seeds import generator
from sae.source import Batch, Source, Split
from sae.sources.independent import Config as Independent


class Mlp(Source):
    """Samples x of independent features, with targets from a random MLP of one hidden layer: y = W2 ReLU(W1 x)."""

    has_targets = True

    def __init__(self, seed: int = 0, d_in: int = 6, n_hidden: int = 10) -> None:
        self.features = Independent(n_features=12, d_in=d_in, probability=0.1, noise=0.01, seed=seed).build()
        draw = generator("mlp", seed)
        self.d_in = d_in
        self.W1 = torch.randn(d_in, n_hidden, generator=draw) / d_in**0.5
        self.W2 = torch.randn(n_hidden, d_in, generator=draw) / n_hidden**0.5

    def __call__(self, x: Tensor) -> Tensor:
        return torch.relu(x @ self.W1) @ self.W2

    def batch(self, step: int, size: int, split: Split = "train") -> Batch:
        batch = self.features.batch(step, size, split)
        return replace(batch, targets=self(batch.acts))
