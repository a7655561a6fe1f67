"""Which latents fire together: pairs counted sparsely, a few partners of each latent told.

With n_i the rows where latent i fires and n_ij those where both do, of n rows:

    phi_ij = (n n_ij - n_i n_j) / sqrt(n_i (n - n_i) n_j (n - n_j))

the correlation of two yes-or-no variables (Yule 1912). A row with m active latents has m^2 pairs; the matrix of all
counts may be gigabytes. Counts are therefore sparse, and where more pairs occurred than `most`, each latent keeps its
commonest partners and the rest begin again at zero (a lossy count, Manku and Motwani 2002: what is told is never too
high). Where rows have very many active latents, every k-th row alone is counted.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae.analysis.latents.firing import Fired

MOST_PAIRS = 2**24
"""Counts that are kept: eight bytes each, and twice that while two are added."""
PAIRS_A_VECTOR = 2**14
"""Pairs that are counted of a vector, on average; more, and vectors are left out."""


class Partners(NamedTuple):
    """For each latent the `n` that fire with it most, by phi; -1 and NaN where there are fewer."""

    latent: Int[Tensor, "n_shown n"]
    phi: Float[Tensor, "n_shown n"]
    share: Float[Tensor, "n_shown n"]
    """The share of this latent's rows in which the partner fires too."""


class CoFiring:
    """Counts of pairs, a piece at a time."""

    def __init__(self, n_latents: int, most: int = MOST_PAIRS) -> None:
        self.n_latents, self.most = n_latents, most
        self.n_vectors, self.n_seen, self.pruned = 0, 0, False
        self.count = torch.zeros(n_latents, dtype=torch.int64)
        self.pairs: Any = None

    def add(self, fired: Fired, n_vectors: int) -> None:
        from scipy.sparse import csr_matrix

        active = fired.vector.bincount(minlength=n_vectors)
        step = max(1, -(-int(active.square().sum()) // (PAIRS_A_VECTOR * n_vectors)))
        self.n_seen += n_vectors
        chosen = (fired.vector % step == 0).nonzero()[:, 0]
        vector, latent = fired.vector[chosen] // step, fired.latent[chosen]
        n = -(-n_vectors // step)
        self.n_vectors += n
        self.count += latent.bincount(minlength=self.n_latents)
        ones = np.ones(len(chosen), dtype=np.int32)
        fires = csr_matrix((ones, (vector.numpy(), latent.numpy())), shape=(n, self.n_latents))
        here = fires.T.tocsr() @ fires
        self.pairs = here if self.pairs is None else self.pairs + here
        if self.pairs.nnz > self.most:
            self._prune()

    def _prune(self) -> None:
        """Leaves every latent its commonest partners, half of all there is room for."""
        from scipy.sparse import csr_matrix

        kept = max(1, self.most // (2 * self.n_latents))
        pairs = self.pairs
        size = np.diff(pairs.indptr)
        row = np.repeat(np.arange(self.n_latents), size)
        order = np.lexsort((-pairs.data, row))
        rank = np.arange(len(order)) - np.repeat(pairs.indptr[:-1], size)
        order = order[rank < kept]
        cells = (pairs.data[order], (row[order], pairs.indices[order]))
        self.pairs, self.pruned = csr_matrix(cells, shape=pairs.shape), True

    def partners(self, shown: Int[Tensor, " n_shown"], n: int) -> Partners:
        """The latents that fire most together with those that are shown."""
        latent = torch.full((len(shown), n), -1, dtype=torch.int64)
        phi, share = torch.full((len(shown), n), torch.nan), torch.full((len(shown), n), torch.nan)
        for i, j in enumerate(shown.tolist()):
            begin, end = (self.pairs.indptr[k] for k in (j, j + 1))
            other = torch.from_numpy(self.pairs.indices[begin:end].astype(np.int64))
            both = torch.from_numpy(self.pairs.data[begin:end].astype(np.int64))
            both, other = both[other != j], other[other != j]
            together = self._phi(j, other, both)
            best = together.argsort(descending=True, stable=True)[:n]
            best = best[together[best] > 0]
            latent[i, : len(best)], phi[i, : len(best)] = other[best], together[best].float()
            share[i, : len(best)] = both[best] / self.count[j]
        return Partners(latent, phi, share)

    def _phi(self, j: int, other: Int[Tensor, " n"], both: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        n, mine, its = float(self.n_vectors), self.count[j].double(), self.count[other].double()
        spread = (mine * (n - mine) * its * (n - its)).sqrt()
        return ((n * both.double() - mine * its) / spread).nan_to_num(0.0, 0.0, 0.0)
