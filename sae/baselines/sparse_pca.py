"""Sparse principal components: directions of few coordinates, each as a positive and a negative latent.

    minimise  1/2 ||X - U V||^2 + alpha sum |V|,    ||columns of U|| <= 1,    directions are the rows of V

about the mean; Zou, Hastie and Tibshirani 2006, in the form of Jenatton, Obozinski and Bach 2009, by scikit-learn's
mini-batches (over coordinates: every one is a sample of its dictionary learning, and the rows are what it is explained
by). What is sparse is the direction in the neuron basis, not the code: a row has all components in it. So it is the
baseline of features that live on few neurons, and says little of others. Codes are scikit-learn's, the ridge
regression of a row on all components, ``(x - mean) V^T (V V^T + ridge)^-1``.

The time grows with n_samples * n_components^2, and is bounded: a ``ValueError`` says what to lower.
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

_LARGEST = 5e11
"""The most multiply-adds that are begun, some minutes on a core."""
_BATCH = 16
_RIDGE = 0.01


class Config(BaselineConfig):
    """Settings; ``2 n_components`` latents (``2 d_in`` where it is unset) from `n_samples` rows in `n_iterations`
    epochs over the coordinates; components that come out zero are left out.

    `alpha` is in units of the root mean square of a coordinate times the root of `n_samples`, the norm of an average
    column of X, so that 1 leaves next to nothing."""

    kind: Literal["sparse_pca"] = "sparse_pca"
    n_components: int | None = Field(None, gt=0)
    n_samples: int = Field(1000, gt=1)
    n_iterations: int = Field(10, gt=0)
    alpha: float = Field(0.05, gt=0)

    def fit(self, source: Source, seed: int) -> Relu:
        from sklearn.decomposition import MiniBatchSparsePCA
        from sklearn.exceptions import ConvergenceWarning

        n = self.n_components or source.d_in
        x = training_rows(source, self.n_samples, seed)
        work = self.n_iterations * an_epoch(len(x), source.d_in, n)
        if work > _LARGEST:
            raise UserError(
                f"sparse_pca: n_components = {n} on n_samples = {len(x)} rows of {source.d_in} take {work:.0e} "
                f"multiply-adds, more than {_LARGEST:.0e}; lower n_components, n_samples or n_iterations"
            )
        mean = x.mean(0)
        unit = float((x - mean).square().mean().sqrt()) * len(x) ** 0.5
        sparse = MiniBatchSparsePCA(
            n,
            alpha=self.alpha * unit,
            ridge_alpha=_RIDGE,
            max_iter=self.n_iterations,
            batch_size=_BATCH,
            max_no_improvement=self.n_iterations * source.d_in,  # never
            random_state=seed,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            sparse.fit(x.double().numpy())
        found = torch.from_numpy(sparse.components_)
        V = found[found.any(-1)]
        if len(V) == 0:
            raise UserError(f"sparse_pca: alpha = {self.alpha} leaves no coordinate in any component; lower it")
        norm = V.norm(dim=-1, keepdim=True)
        readers = torch.linalg.solve(V @ V.T + _RIDGE * torch.eye(len(V)).double(), V).T * norm[:, 0]
        W_enc, W_dec = torch.cat([readers, -readers], 1), torch.cat([V / norm, -V / norm])
        d = Relu(W_enc.float(), W_dec.float(), torch.zeros(len(W_dec)), mean)
        made = int(sparse.n_iter_)
        spent = FitCost(len(x), len(x) * (1 + made), made * an_epoch(len(x), source.d_in, n))
        return d.with_card(iterations=made, zeros=float((V == 0).double().mean()), **spent.card_entry())


def an_epoch(n_samples: int, d_in: int, n: int) -> int:
    """Multiply-adds of the update of the dictionary, once a mini-batch, and of the codes of all coordinates."""
    return -(-d_in // _BATCH) * n_samples * n**2 + 2 * d_in * n_samples * n
