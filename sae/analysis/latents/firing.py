"""When latents fire and how strongly: counted over pieces, in memory that does not grow with them.

    rate_j = |{x : z_j > 0}| / |{x}|,    mean_j = E[z_j | z_j > 0],    max_j, min_j over the rows where it fires

and a histogram of the activations of each latent in bins of equal ratio, 2^(1/4), over sixteen octaves. The bins are
set once, from the largest code of the first piece, and the outermost take in what lies beyond them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

PER_OCTAVE = 4
BELOW, ABOVE = 14, 2
"""Octaves of bins below and above the largest code of the first piece."""
N_BINS = PER_OCTAVE * (BELOW + ABOVE)


class Fired(NamedTuple):
    """The codes of a piece that are not zero, one entry each."""

    vector: Int[Tensor, " entries"]
    latent: Int[Tensor, " entries"]
    value: Float[Tensor, " entries"]

    @classmethod
    def of(cls, z: Float[Tensor, "batch n_latents"]) -> Fired:
        vector, latent = (z > 0).nonzero(as_tuple=True)
        return cls(vector.cpu(), latent.cpu(), z[vector, latent].float().cpu())


class Tally:
    """Counts of all latents. `count`, `sum`, `least`, `most` and `histogram` are those of active codes alone."""

    def __init__(self, n_latents: int) -> None:
        self.n_latents, self.n_vectors, self.scale = n_latents, 0, 0.0
        self.count = torch.zeros(n_latents, dtype=torch.int64)
        self.sum = torch.zeros(n_latents, dtype=torch.float64)
        self.least = torch.full((n_latents,), torch.inf)
        self.most = torch.zeros(n_latents)
        self.histogram = torch.zeros(n_latents, N_BINS, dtype=torch.int32)

    def add(self, fired: Fired, n_vectors: int) -> Int[Tensor, " entries"]:
        """Counts a piece, and gives the bin of each of its entries."""
        self.n_vectors += n_vectors
        if len(fired.value) == 0:
            return fired.latent
        self.scale = self.scale or float(fired.value.max())
        octave = (fired.value / self.scale).log2()
        bins = (PER_OCTAVE * (octave + BELOW)).floor().long().clamp(0, N_BINS - 1)
        self.count += fired.latent.bincount(minlength=self.n_latents)
        self.sum += fired.latent.bincount(fired.value.double(), minlength=self.n_latents)
        self.least.scatter_reduce_(0, fired.latent, fired.value, "amin")
        self.most.scatter_reduce_(0, fired.latent, fired.value, "amax")
        places = fired.latent * N_BINS + bins
        self.histogram += places.bincount(minlength=self.histogram.numel()).view_as(self.histogram).int()
        return bins

    @property
    def edges(self) -> Float[Tensor, " n_edges"]:
        """The borders of the bins, one more than there are bins."""
        return self.scale * 2.0 ** (torch.arange(N_BINS + 1) / PER_OCTAVE - BELOW)

    @property
    def rate(self) -> Float[Tensor, " n_latents"]:
        return (self.count.double() / max(1, self.n_vectors)).float()

    @property
    def mean(self) -> Float[Tensor, " n_latents"]:
        """NaN for a latent that never fired."""
        return (self.sum / self.count).float()
