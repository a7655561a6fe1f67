"""The best linear map of a given rank from the inputs x to the targets y: reduced-rank regression.

    y_hat = (x - E x) B V V^T + E y,    B = Cov(x)^+ Cov(x, y),    V the top eigenvectors of B^T Cov(x) B

It is the map of rank r with the least E||y - y_hat||^2 (Izenman 1975, 'Reduced-rank regression for the multivariate
linear model'), so whatever a transcoder explains beyond it is non-linear. Each column of V becomes a positive and a
negative latent. Where a source has no targets, y is x, and the map is that of the principal components.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field

from sae.baseline import BaselineConfig, training_pairs
from sae.dictionaries.relu import Relu
from sae.numerics.fit_cost import FitCost, eigenvectors
from sae.source import Source


class Config(BaselineConfig):
    """Reduced-rank regression with ``2 rank`` latents."""

    kind: Literal["linear"] = "linear"
    rank: int | None = Field(None, gt=0)
    """Rank of the map; `d_in` if None."""
    n_samples: int = Field(20_000, gt=1)
    """Number of training samples."""

    fits_targets: ClassVar[bool] = True

    def fit(self, source: Source, seed: int) -> Relu:
        x, y = (rows.double() for rows in training_pairs(source, self.n_samples, seed))
        mean_x, mean_y = x.mean(0), y.mean(0)
        x, y = x - mean_x, y - mean_y
        B = torch.linalg.pinv(x.T @ x, hermitian=True) @ (x.T @ y)
        V = torch.linalg.eigh(B.T @ (x.T @ x) @ B)[1].flip(1)[:, : self.rank]
        W_enc, W_dec = torch.cat([B @ V, -B @ V], 1), torch.cat([V.T, -V.T])
        b_enc = (mean_y - mean_x) @ W_enc  # because a dictionary subtracts b_dec, the mean of y, before it encodes
        # Two covariances, a pseudo-inverse and the eigenvectors.
        cost = FitCost(len(x), len(x), 2 * x.numel() * source.d_in + 2 * eigenvectors(source.d_in))
        d = Relu(W_enc.float(), W_dec.float(), b_enc.float(), mean_y.float())
        return d.with_card(**cost.card_entry())
