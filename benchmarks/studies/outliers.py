"""Half a percent of the samples with a thousand times the norm of the others, as attention sinks have, and what
`max_norm` does about them."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import sae
from benchmarks.studies import Fact, listed
from sae.numerics.matching import unit
from sae.source import TensorSource

SEEDS = range(3)
SCORES = ("fvu", "fvu_median", "mcc")


def sinks() -> Iterator[Fact]:
    """64 sparse features in 32 dimensions, 50,000 samples, every 200th of them 1000 times a feature's direction: 128
    latents at l1 = 0.5, scored on the held-out samples of the source."""
    for max_norm in (None, 10.0):
        every = [_scores(max_norm, seed) for seed in SEEDS]
        for name in SCORES:
            yield Fact(f"max_norm = {max_norm}: {name}, 3 seeds", "", listed([s[name] for s in every], ".3f"))


def _scores(max_norm: float | None, seed: int) -> dict[str, float]:
    g = torch.Generator().manual_seed(seed)
    directions = unit(torch.randn(64, 32, generator=g))
    codes = torch.rand(50_000, 64, generator=g) * (torch.rand(50_000, 64, generator=g) < 0.03)
    x = codes @ directions
    x[::200] = 1000 * directions[0]
    source = TensorSource(x, max_norm=max_norm)
    [d] = sae.fit(source, n_latents=128, l1=0.5, steps=3000, seeds=seed)
    n = source.n_rows["test"]
    assert n is not None
    return sae.score(d, source.batch(0, n, "test").acts, features=directions)
