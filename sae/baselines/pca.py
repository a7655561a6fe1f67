"""Principal components, each as a positive and a negative latent."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from sae.baseline import BaselineConfig, training_rows
from sae.dictionaries.relu import Relu
from sae.numerics.fit_cost import FitCost, eigenvectors
from sae.source import Source


class Config(BaselineConfig):
    """Eigenvectors of the covariance, with the mean as `b_dec`; ``2 n_components`` latents."""

    kind: Literal["pca"] = "pca"
    n_samples: int = Field(20_000, gt=1)
    """Number of training samples."""
    n_components: int | None = Field(None, gt=0)
    """Number of components, those of largest variance; all `d_in` if None."""

    def fit(self, source: Source, seed: int) -> Relu:
        x = training_rows(source, self.n_samples, seed).double()
        mean = x.mean(0)
        _, vectors = torch.linalg.eigh((x - mean).T @ (x - mean))
        components = vectors.T.flip(0)[: self.n_components].float()
        cost = FitCost(len(x), len(x), x.numel() * source.d_in + eigenvectors(source.d_in))
        return Relu.tied(torch.cat([components, -components]), mean.float()).with_card(**cost.card_entry())
