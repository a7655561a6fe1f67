"""Centroids of k-means as directions: each sample is assigned to one scaled prototype.

    minimise  sum_i || x_i / ||x_i|| - c_a(i) ||^2,    directions c_j / ||c_j||

Samples are scaled to norm one first, so that a weak and a strong activation of the same feature fall into the same
cluster. This is the spherical k-means of Coates and Ng 2012, 'Learning feature representations with k-means'; Lloyd's
algorithm from k-means++ (Arthur and Vassilvitskii 2007), as in scikit-learn.

With ``encoder = "nearest"`` one latent per sample is active, the one with the largest projection; that is the centroid
with the nearest direction, and the projection is its code (Coates and Ng's gain-shape coding). With
``encoder = "relu"`` all positive projections are codes, as in `data_points`, so that averaged and plain prototypes are
compared with the same encoder. The 'triangle' code of Coates, Ng and Lee 2011 is neither linear nor sparse and is not
offered.
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
    """Spherical k-means with `n_latents` centroids.

    Fitting raises `UserError` where there are fewer non-zero samples than centroids.
    """

    kind: Literal["kmeans"] = "kmeans"
    n_latents: int = Field(gt=0)
    """Number of centroids."""
    n_samples: int = Field(20_000, gt=1)
    """Number of training samples; samples that are zero are left out."""
    n_iterations: int = Field(100, gt=0)
    """Maximum number of Lloyd iterations."""
    encoder: Literal["nearest", "relu"] = "nearest"
    """Codes: the largest projection alone (`nearest`), or all positive projections (`relu`)."""

    def fit(self, source: Source, seed: int) -> Dictionary:
        from sklearn.cluster import KMeans
        from threadpoolctl import threadpool_limits

        rows = training_rows(source, self.n_samples, seed)
        x = unit(rows[rows.any(-1)])
        if len(x) < self.n_latents:
            raise UserError(
                f"kmeans: n_latents = {self.n_latents}: only {len(x)} samples are not zero; "
                "lower n_latents or raise n_samples"
            )
        means = KMeans(self.n_latents, n_init=cast(Any, 1), max_iter=self.n_iterations, random_state=seed)
        with threadpool_limits(1, "openmp"):  # with more, sums depend on the order in which threads finish
            means.fit(x.numpy())
        directions = unit(torch.from_numpy(means.cluster_centers_).float())
        tied = Relu.tied(directions)
        d = tied if self.encoder == "relu" else TopK(tied.W_enc, tied.W_dec, tied.b_enc, tied.b_dec, k=1)
        # One product of samples and centroids per iteration; k-means++ costs about one for each of its candidates.
        iterations, product = int(means.n_iter_), x.numel() * self.n_latents
        candidates = 2 + self.n_latents.bit_length()
        cost = FitCost(len(rows), len(rows) * (1 + iterations), product * (iterations + candidates))
        return d.with_card(iterations=iterations, converged=iterations < self.n_iterations, **cost.card_entry())
