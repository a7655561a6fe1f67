"""Independent components by FastICA, each as a positive and a negative latent.

    x = A s + mean,    s = W (x - mean);  directions are the columns of A, scaled to norm one

Hyvarinen and Oja 2000, as in scikit-learn (parallel, logcosh, whitened to unit variance). The encoder of a direction
is its row of W, scaled by the same norm, so that decoding both signs reconstructs x.
"""

from __future__ import annotations

import warnings
from typing import Literal

import torch
from pydantic import Field

from sae.baseline import BaselineConfig, training_rows
from sae.dictionaries.relu import Relu
from sae.numerics.fit_cost import FitCost, eigenvectors
from sae.source import Source


class Config(BaselineConfig):
    """FastICA with ``2 d_in`` latents, or fewer where the samples span fewer dimensions."""

    kind: Literal["ica"] = "ica"
    n_samples: int = Field(20_000, gt=1)
    """Number of training samples."""
    max_iterations: int = Field(200, gt=0)
    """Maximum number of FastICA iterations."""
    tolerance: float = Field(1e-3, gt=0)
    """FastICA stops when W changes by less than this in an iteration."""

    def fit(self, source: Source, seed: int) -> Relu:
        from sklearn.decomposition import FastICA
        from sklearn.exceptions import ConvergenceWarning

        x = training_rows(source, self.n_samples, seed)
        rank = int(torch.linalg.matrix_rank(x - x.mean(0)))
        ica = FastICA(
            n_components=min(rank, *x.shape),
            whiten="unit-variance",
            max_iter=self.max_iterations,
            tol=self.tolerance,
            random_state=seed,
        )
        with warnings.catch_warnings():
            # The card records whether FastICA converged, so the warning is not needed.
            warnings.simplefilter("ignore", ConvergenceWarning)
            ica.fit(x.numpy())
        mixing = torch.from_numpy(ica.mixing_).float().T
        norm = mixing.norm(dim=-1).clamp_min(1e-12)
        directions = mixing / norm[:, None]
        unmixing = torch.from_numpy(ica.components_).float() * norm[:, None]
        both = torch.cat([unmixing, -unmixing]).T.contiguous()
        d = Relu(both, torch.cat([directions, -directions]), torch.zeros(both.shape[1]), x.mean(0))
        n_iterations = int(ica.n_iter_)
        return d.with_card(
            iterations=n_iterations,
            converged=n_iterations < self.max_iterations,
            **_fit_cost(len(x), source.d_in, len(directions), n_iterations).card_entry(),
        )


def _fit_cost(n_rows: int, d_in: int, rank: int, n_iterations: int) -> FitCost:
    """Whitening costs a covariance and its eigenvectors; each iteration costs two products of all samples with all
    components and the eigenvectors of the symmetric decorrelation."""
    whitening = n_rows * d_in**2 + eigenvectors(d_in)
    return FitCost(
        n_rows, n_rows * (1 + n_iterations), whitening + n_iterations * (2 * n_rows * rank**2 + eigenvectors(rank))
    )
