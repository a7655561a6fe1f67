"""Sparse principal components: directions of few coordinates, each as a positive and a negative latent.

    minimise  1/2 ||X - U V||^2 + alpha sum |V|,    ||columns of U|| <= 1,    directions are the rows of V

for X about its mean; Zou, Hastie and Tibshirani 2006, in the form of Jenatton, Obozinski and Bach 2009, by
scikit-learn's mini-batches (over coordinates: in its dictionary learning each coordinate is a sample). The directions
are sparse in the neuron basis; the codes are not, since every sample uses all components. It is therefore the baseline
for features that lie on few neurons. Codes are scikit-learn's: the ridge regression of a sample on all components,
``(x - mean) V^T (V V^T + ridge)^-1``.

The time grows with n_samples * n_components^2. Fitting raises `UserError` where it would take more than some minutes.
"""

from __future__ import annotations

import warnings
from typing import Literal

import torch
from pydantic import Field

from sae.baseline import BaselineConfig, training_rows
from sae.dictionaries.relu import Relu
from sae.numerics.fit_cost import FitCost
from sae.registry import UserError
from sae.source import Source

_MAX_MULTIPLY_ADDS = 5e11
"""Fits that need more multiply-adds (some minutes on one core) are refused."""
_BATCH = 16
"""Coordinates per mini-batch."""
_RIDGE = 0.01
"""Ridge penalty of the codes."""


class Config(BaselineConfig):
    """Sparse PCA with ``2 n_components`` latents; components that come out zero are left out.

    Fitting raises `UserError` where it would take too long, or where `alpha` makes every component zero.
    """

    kind: Literal["sparse_pca"] = "sparse_pca"
    n_components: int | None = Field(None, gt=0)
    """Number of components; `d_in` if None."""
    n_samples: int = Field(1000, gt=1)
    """Number of training samples."""
    n_iterations: int = Field(10, gt=0)
    """Number of epochs over the coordinates."""
    alpha: float = Field(0.05, gt=0)
    """Penalty, in units of the norm of an average column of X (the root mean square of a coordinate times the square
    root of `n_samples`); at 1 almost every coordinate becomes zero."""

    def fit(self, source: Source, seed: int) -> Relu:
        from sklearn.decomposition import MiniBatchSparsePCA
        from sklearn.exceptions import ConvergenceWarning

        n = self.n_components or source.d_in
        x = training_rows(source, self.n_samples, seed)
        work = self.n_iterations * epoch_multiply_adds(len(x), source.d_in, n)
        if work > _MAX_MULTIPLY_ADDS:
            raise UserError(
                f"sparse_pca: n_components = {n} on n_samples = {len(x)} of width {source.d_in}: {work:.0e} "
                f"multiply-adds, more than the {_MAX_MULTIPLY_ADDS:.0e} allowed; lower n_components, n_samples or "
                "n_iterations"
            )
        mean = x.mean(0)
        unit = float((x - mean).square().mean().sqrt()) * len(x) ** 0.5
        sparse = MiniBatchSparsePCA(
            n,
            alpha=self.alpha * unit,
            ridge_alpha=_RIDGE,
            max_iter=self.n_iterations,
            batch_size=_BATCH,
            max_no_improvement=self.n_iterations * source.d_in,  # no early stopping
            random_state=seed,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            sparse.fit(x.double().numpy())
        components = torch.from_numpy(sparse.components_)
        V = components[components.any(-1)]
        if len(V) == 0:
            raise UserError(f"sparse_pca: alpha = {self.alpha}: every component is zero; lower alpha")
        norm = V.norm(dim=-1, keepdim=True)
        encoder = torch.linalg.solve(V @ V.T + _RIDGE * torch.eye(len(V)).double(), V).T * norm[:, 0]
        W_enc, W_dec = torch.cat([encoder, -encoder], 1), torch.cat([V / norm, -V / norm])
        d = Relu(W_enc.float(), W_dec.float(), torch.zeros(len(W_dec)), mean)
        epochs = int(sparse.n_iter_)
        cost = FitCost(len(x), len(x) * (1 + epochs), epochs * epoch_multiply_adds(len(x), source.d_in, n))
        return d.with_card(iterations=epochs, zeros=float((V == 0).double().mean()), **cost.card_entry())


def epoch_multiply_adds(n_samples: int, d_in: int, n: int) -> int:
    """Multiply-adds of one epoch: a dictionary update per mini-batch, and the codes of all coordinates."""
    return -(-d_in // _BATCH) * n_samples * n**2 + 2 * d_in * n_samples * n
