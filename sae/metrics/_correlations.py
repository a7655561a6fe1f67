"""Correlations between true coefficients and codes, in blocks, from sparse sums of products."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from sae.numerics.active_codes import ActiveCodes, SplitCodes
from sae.numerics.assignment import Similarity

VARIES = 1e-8
"""Smallest variance at which a coefficient counts as varying."""
_CELLS = 2**22
"""Cells of a matrix that are calculated at once."""


@dataclass(frozen=True, eq=False)
class Correlations(Similarity):
    """|Pearson| between true coefficients and codes, 0 where one does not vary; from sparse sums of products."""

    coefficients: Any
    """The true coefficients ``[rows, n_varying]``, a matrix of scipy in float64."""
    z: SplitCodes
    """The codes."""
    moments: tuple[ColumnMoments, ColumnMoments]
    """Those of the coefficients and of the codes."""
    device: torch.device
    """Where the blocks are needed."""
    latents_first: bool = False
    """Whether latents are the rows, and features the columns."""

    @classmethod
    def of(cls, codes: Float[Tensor, "rows n_varying"], z: SplitCodes) -> Correlations:
        from scipy.sparse import csr_matrix, vstack

        rows = [csr_matrix(piece.double().cpu().numpy()) for piece in codes.split(max(1, _CELLS // codes.shape[1]))]
        coefficients = vstack(rows, format="csr")
        of_latents = ColumnMoments(np.zeros(z.n_latents), np.zeros(z.n_latents))
        for latents, part in z.parts():
            of_latents.mean[latents], of_latents.scale[latents] = ColumnMoments.of(part.matrix(), part.n_rows)
        return cls(coefficients, z, (ColumnMoments.of(coefficients.T.tocsr(), len(codes)), of_latents), codes.device)

    @property
    def shape(self) -> tuple[int, int]:
        n = self.coefficients.shape[1]
        return (self.z.n_latents, n) if self.latents_first else (n, self.z.n_latents)

    def transposed(self) -> Correlations:
        return replace(self, latents_first=not self.latents_first)

    def block(self, columns: slice) -> Float[Tensor, "rows block"]:
        if self.latents_first:
            features, parts = columns, self.z.parts(_CELLS // (columns.stop - columns.start) + 1)
        else:
            features, within = slice(0, self.shape[0]), self.z.within(columns)
            parts = within.parts(_CELLS // max(1, self.shape[0]) + 1)
        n_latents = self.shape[0] if self.latents_first else columns.stop - columns.start
        found = torch.empty(n_latents, features.stop - features.start)
        for latents, part in parts:
            first = 0 if self.latents_first else columns.start
            found[latents] = self._size(slice(first + latents.start, first + latents.stop), part, features)
        return (found if self.latents_first else found.T).to(self.device)

    def _size(self, latents: slice, part: ActiveCodes, features: slice) -> Float[Tensor, "part features"]:
        """|Pearson| of a part of the latents with features."""
        of_features, of_latents = (m.at(s) for m, s in zip(self.moments, (features, latents), strict=True))
        products = (part.matrix() @ self.coefficients[:, features]).toarray()
        products -= part.n_rows * of_latents.mean[:, None] * of_features.mean
        products *= of_latents.scale[:, None] * of_features.scale
        return torch.from_numpy(np.abs(products)).float()


class ColumnMoments(NamedTuple):
    """Mean of columns, and the factor that gives a centred column norm one; 0 for one that does not vary."""

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]

    @classmethod
    def of(cls, columns: Any, n_rows: int) -> ColumnMoments:
        """Of the rows of a sparse matrix, each with the values of a column over `n_rows` samples."""
        mean = np.asarray(columns.sum(1)).ravel() / n_rows
        square = np.asarray(columns.multiply(columns).sum(1)).ravel() - n_rows * mean**2
        largest = abs(columns).max(1).toarray().ravel()
        varies = square > n_rows * VARIES * largest**2
        return cls(mean, np.where(varies, np.maximum(square, 1e-60) ** -0.5, 0.0))

    def at(self, columns: slice) -> ColumnMoments:
        """Those of a range of columns."""
        return ColumnMoments(self.mean[columns], self.scale[columns])
