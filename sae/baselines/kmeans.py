"""Centroids of k-means as directions: every row is one prototype, scaled.

    minimise  sum_i || x_i / ||x_i|| - c_a(i) ||^2,    directions c_j / ||c_j||

Rows are scaled to norm one first, because clusters are to be of directions: the same feature, weak and strong, is one.
Coates and Ng 2012, 'Learning feature representations with k-means', where it is called spherical; Lloyd's algorithm
from k-means++ (Arthur and Vassilvitskii 2007), as in scikit-learn.

``encoder = "nearest"`` is the code that belongs to it: one latent a row, that of the largest projection, which is the
centroid with the nearest direction, and the projection its code (their gain-shape coding). ``"relu"`` is what the rows
of `data_points` are read by, all projections: the same reading for prototypes that were averaged and those that were
not. The 'triangle' code of Coates, Ng and Lee 2011 is neither linear nor sparse, and left out.
"""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from pydantic import Field

from sae.baseline import BaselineConfig, training_rows
from sae.dictionaries.relu import Relu
from sae.dictionaries.topk import TopK
from sae.dictionary import Dictionary
from sae.numerics.fit_cost import FitCost
from sae.numerics.matching import unit
from sae.registry import UserError
from sae.source import Source


class Config(BaselineConfig):
    """Settings; `n_latents` centroids of `n_samples` rows, those other than zero, in at most `n_iterations` rounds."""

    kind: Literal["kmeans"] = "kmeans"
    n_latents: int = Field(gt=0)
    n_samples: int = Field(20_000, gt=1)
    n_iterations: int = Field(100, gt=0)
    encoder: Literal["nearest", "relu"] = "nearest"

    def fit(self, source: Source, seed: int) -> Dictionary:
        from sklearn.cluster import KMeans
        from threadpoolctl import threadpool_limits

        rows = training_rows(source, self.n_samples, seed)
        x = unit(rows[rows.any(-1)])
        if len(x) < self.n_latents:
            raise UserError(
                f"kmeans: n_latents = {self.n_latents}, but there are {len(x)} rows other than zero; "
                "ask for fewer, or for more n_samples"
            )
        means = KMeans(self.n_latents, n_init=cast(Any, 1), max_iter=self.n_iterations, random_state=seed)
        with threadpool_limits(1, "openmp"):  # else threads add up in the order in which they are done
            means.fit(x.numpy())
        directions = unit(torch.from_numpy(means.cluster_centers_).float())
        tied = Relu.tied(directions)
        d = tied if self.encoder == "relu" else TopK(tied.W_enc, tied.W_dec, tied.b_enc, tied.b_dec, k=1)
        # A product of rows and centroids a round; k-means++ has about one such for each candidate of a centroid.
        n_rounds, one = int(means.n_iter_), x.numel() * self.n_latents
        candidates = 2 + self.n_latents.bit_length()
        spent = FitCost(len(rows), len(rows) * (1 + n_rounds), one * (n_rounds + candidates))
        return d.with_card(iterations=n_rounds, converged=n_rounds < self.n_iterations, **spent.card_entry())
