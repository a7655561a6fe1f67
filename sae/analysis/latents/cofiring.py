"""Latents that fire together: sparse counts of pairs, and the strongest partners of each latent.

With n_i the samples in which latent i fires and n_ij those in which both fire, out of n:

    phi_ij = (n n_ij - n_i n_j) / sqrt(n_i (n - n_i) n_j (n - n_j))

the correlation of two binary variables (Yule 1912). A sample with m active latents has m^2 pairs, and a dense matrix of
counts may need gigabytes. Counts are therefore sparse; when more than `most` pairs have occurred, each latent keeps its
most frequent partners and the other counts restart at zero (lossy counting, Manku and Motwani 2002: counts are never
too high). If samples have very many active latents, only every k-th sample is counted.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae.analysis.latents.firing import Fired

MOST_PAIRS = 2**24
"""The most counts that are stored: eight bytes each, and twice that while matrices are added."""
PAIRS_PER_VECTOR = 2**14
"""The most pairs counted per sample on average; with more, samples are skipped."""


class Partners(NamedTuple):
    """For each shown latent, the latents that fire with it most by phi; -1 and NaN if there are fewer."""

    latent: Int[Tensor, "n_shown n"]
    """The partners, the largest phi first."""
    phi: Float[Tensor, "n_shown n"]
    """The correlation of firing with the partner."""
    share: Float[Tensor, "n_shown n"]
    """The share of this latent's samples in which the partner fires too."""


class CoFiring:
    """Counts pairs of latents that fire together, piece by piece."""

    def __init__(self, n_latents: int, most: int = MOST_PAIRS) -> None:
        self.n_latents, self.most = n_latents, most
        self.n_vectors, self.n_seen, self.pruned = 0, 0, False
        self.count = torch.zeros(n_latents, dtype=torch.int64)
        self.pairs: Any = None

    def add(self, fired: Fired, n_vectors: int) -> None:
        """Adds the pairs of a piece of `n_vectors` samples."""
        from scipy.sparse import csr_matrix

        active = fired.vector.bincount(minlength=n_vectors)
        step = max(1, -(-int(active.square().sum()) // (PAIRS_PER_VECTOR * n_vectors)))
        self.n_seen += n_vectors
        chosen = (fired.vector % step == 0).nonzero()[:, 0]
        vector, latent = fired.vector[chosen] // step, fired.latent[chosen]
        n = -(-n_vectors // step)
        self.n_vectors += n
        self.count += latent.bincount(minlength=self.n_latents)
        ones = np.ones(len(chosen), dtype=np.int32)
        fires = csr_matrix((ones, (vector.numpy(), latent.numpy())), shape=(n, self.n_latents))
        pairs = fires.T.tocsr() @ fires
        self.pairs = pairs if self.pairs is None else self.pairs + pairs
        if self.pairs.nnz > self.most:
            self._prune()

    def _prune(self) -> None:
        """Keeps the most frequent partners of every latent, so that half of the room is free."""
        from scipy.sparse import csr_matrix

        n_kept = max(1, self.most // (2 * self.n_latents))
        pairs = self.pairs
        size = np.diff(pairs.indptr)
        row = np.repeat(np.arange(self.n_latents), size)
        order = np.lexsort((-pairs.data, row))
        rank = np.arange(len(order)) - np.repeat(pairs.indptr[:-1], size)
        order = order[rank < n_kept]
        cells = (pairs.data[order], (row[order], pairs.indices[order]))
        self.pairs, self.pruned = csr_matrix(cells, shape=pairs.shape), True

    def partners(self, shown: Int[Tensor, " n_shown"], n: int) -> Partners:
        """The `n` latents with the largest phi for each shown latent."""
        latent = torch.full((len(shown), n), -1, dtype=torch.int64)
        phi, share = torch.full((len(shown), n), torch.nan), torch.full((len(shown), n), torch.nan)
        for i, j in enumerate(shown.tolist()):
            begin, end = (self.pairs.indptr[k] for k in (j, j + 1))
            other = torch.from_numpy(self.pairs.indices[begin:end].astype(np.int64))
            both = torch.from_numpy(self.pairs.data[begin:end].astype(np.int64))
            both, other = both[other != j], other[other != j]
            correlation = self._phi(j, other, both)
            best = correlation.argsort(descending=True, stable=True)[:n]
            best = best[correlation[best] > 0]
            latent[i, : len(best)], phi[i, : len(best)] = other[best], correlation[best].float()
            share[i, : len(best)] = both[best] / self.count[j]
        return Partners(latent, phi, share)

    def _phi(self, j: int, other: Int[Tensor, " n"], both: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        n, n_j, n_other = float(self.n_vectors), self.count[j].double(), self.count[other].double()
        spread = (n_j * (n - n_j) * n_other * (n - n_other)).sqrt()
        return ((n * both.double() - n_j * n_other) / spread).nan_to_num(0.0, 0.0, 0.0)
