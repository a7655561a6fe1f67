"""Batches in memory, drawn before timing starts; every trainer gets the same ones in the same order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sae.numerics.seeds import generator
from sae.source import Batch, Source, Split
from sae.toys.base import random_directions

POOL_BYTES = 400 * 2**20
"""Upper bound on the memory of a pool."""
MAX_BATCHES = 64
SKEW = 0.5
"""Exponent of the feature frequencies, ``rank^-SKEW``."""


class Pool(Source):
    """A source that cycles through a few batches in memory. The batch size must be that of the batches."""

    def __init__(self, batches: Sequence[Float[Tensor, "batch d_in"]]) -> None:
        self.batches = batches
        self.d_in = batches[0].shape[1]

    def batch(self, step: int, size: int, split: Split = "train") -> Batch:
        acts = self.batches[step % len(self.batches)]
        assert len(acts) == size, "a pool holds batches of one size"
        return Batch(acts)


def planted(
    d_in: int, n_features: int, batch: int, n_active: int, device: str = "cpu", seed: int = 0
) -> list[Float[Tensor, "batch d_in"]]:
    """Batches of samples with `n_active` features each, drawn with frequencies proportional to ``rank^-SKEW``.

    Directions have unit norm and magnitudes are U[0, 1]. Batches are scaled to ``E||x|| = sqrt(d_in)``, which is what
    our input scaling does and what the default learning rate of every library is made for.
    """
    draw = generator("benchmark", seed)
    directions = random_directions(n_features, d_in, draw)
    weights = torch.arange(1, n_features + 1, dtype=torch.float64) ** -SKEW
    cumulative = (weights.cumsum(0) / weights.sum()).float()
    n_batches = max(2, min(MAX_BATCHES, POOL_BYTES // (4 * batch * d_in)))
    batches: list[Tensor] = []
    for _ in range(n_batches):
        which = torch.searchsorted(cumulative, torch.rand(batch, n_active, generator=draw)).clamp_(max=n_features - 1)
        strength = torch.rand(batch, n_active, generator=draw)
        batches.append(torch.nn.functional.embedding_bag(which, directions, per_sample_weights=strength, mode="sum"))
    return scaled(batches, device)


def scaled(batches: Sequence[Float[Tensor, "batch d_in"]], device: str) -> list[Float[Tensor, "batch d_in"]]:
    """The batches, moved to `device` and scaled to ``E||x|| = sqrt(d_in)``."""
    norm = float(torch.stack([x.norm(dim=-1).mean() for x in batches]).mean())
    return [(x * (x.shape[1] ** 0.5 / norm)).to(device) for x in batches]
