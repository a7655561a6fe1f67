"""Firing rates and activation histograms of latents, counted over pieces in constant memory.

    rate_j = |{x : z_j > 0}| / |{x}|,    mean_j = E[z_j | z_j > 0],    max_j, min_j over the samples in which it fires

and a histogram of the activations of each latent in bins of equal ratio, 2^(1/4), over sixteen octaves. The bins are
set once, from the largest code of the first piece; the outermost bins include everything beyond them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

PER_OCTAVE = 4
"""Bins per octave."""
BELOW, ABOVE = 14, 2
"""Octaves of bins below and above the largest code of the first piece."""
N_BINS = PER_OCTAVE * (BELOW + ABOVE)
"""Bins of each latent's histogram."""


class Fired(NamedTuple):
    """The positive codes of a piece, one entry each."""

    vector: Int[Tensor, " entries"]
    """The number of the sample in the piece."""
    latent: Int[Tensor, " entries"]
    """The latent."""
    value: Float[Tensor, " entries"]
    """The activation."""

    @classmethod
    def of(cls, z: Float[Tensor, "batch n_latents"]) -> Fired:
        """The positive entries of codes."""
        vector, latent = (z > 0).nonzero(as_tuple=True)
        return cls(vector.cpu(), latent.cpu(), z[vector, latent].float().cpu())


class Tally:
    """Counts for all latents. `count`, `sum`, `least`, `most` and `histogram` cover positive codes only."""

    def __init__(self, n_latents: int) -> None:
        self.n_latents, self.n_vectors, self.scale = n_latents, 0, 0.0
        self.count = torch.zeros(n_latents, dtype=torch.int64)
        self.sum = torch.zeros(n_latents, dtype=torch.float64)
        self.least = torch.full((n_latents,), torch.inf)
        self.most = torch.zeros(n_latents)
        self.histogram = torch.zeros(n_latents, N_BINS, dtype=torch.int32)

    def add(self, fired: Fired, n_vectors: int) -> Int[Tensor, " entries"]:
        """Adds a piece of `n_vectors` samples, and returns the bin of each entry of `fired`."""
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
        """The share of samples in which each latent fires."""
        return (self.count.double() / max(1, self.n_vectors)).float()

    @property
    def mean(self) -> Float[Tensor, " n_latents"]:
        """The mean positive activation; NaN for a latent that never fired."""
        return (self.sum / self.count).float()
