"""Batches that cost nothing: drawn before the clock starts and handed out in turn, to every trainer alike."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sae.numerics.seeds import generator
from sae.source import Batch, Source, Split
from sae.toys.base import random_directions

POOL_BYTES = 400 * 2**20
MAX_BATCHES = 64
SKEW = 0.5


class Pool(Source):
    """A source over a few batches in memory; step and size only pick the batch."""

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
    """Batches of rows with `n_active` features each, drawn with frequencies that fall like ``rank^-SKEW``.

    Unit directions, strengths U[0, 1], and the whole scaled to ``E||x|| = sqrt(d_in)``, which is where our own
    input scaling would put it and where every library's default learning rate is at home.
    """
    draw = generator("benchmark", seed)
    directions = random_directions(n_features, d_in, draw)
    weights = torch.arange(1, n_features + 1, dtype=torch.float64) ** -SKEW
    reached = (weights.cumsum(0) / weights.sum()).float()
    n_batches = max(2, min(MAX_BATCHES, POOL_BYTES // (4 * batch * d_in)))
    batches: list[Tensor] = []
    for _ in range(n_batches):
        which = torch.searchsorted(reached, torch.rand(batch, n_active, generator=draw)).clamp_(max=n_features - 1)
        strength = torch.rand(batch, n_active, generator=draw)
        batches.append(torch.nn.functional.embedding_bag(which, directions, per_sample_weights=strength, mode="sum"))
    return scaled(batches, device)


def scaled(batches: Sequence[Float[Tensor, "batch d_in"]], device: str) -> list[Float[Tensor, "batch d_in"]]:
    """The batches on `device`, scaled to ``E||x|| = sqrt(d_in)``."""
    norm = float(torch.stack([x.norm(dim=-1).mean() for x in batches]).mean())
    return [(x * (x.shape[1] ** 0.5 / norm)).to(device) for x in batches]
