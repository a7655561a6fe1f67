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
    """Settings; eigenvectors of the covariance of `n_samples` rows, read about the mean; ``2 d_in`` latents,
    or the ``2 n_components`` of largest variance."""

    kind: Literal["pca"] = "pca"
    n_samples: int = Field(20_000, gt=1)
    n_components: int | None = Field(None, gt=0)

    def fit(self, source: Source, seed: int) -> Relu:
        x = training_rows(source, self.n_samples, seed).double()
        mean = x.mean(0)
        _, vectors = torch.linalg.eigh((x - mean).T @ (x - mean))
        components = vectors.T.flip(0)[: self.n_components].float()
        spent = FitCost(len(x), len(x), x.numel() * source.d_in + eigenvectors(source.d_in))
        return Relu.tied(torch.cat([components, -components]), mean.float()).with_card(**spent.card_entry())
