"""Non-negative matrix factorisation of activations that have both signs.

    [x+, x-] = z [h+, h-],  z >= 0, h >= 0;    direction h+ - h-,  so that x = z (h+ - h-)

Lee and Seung 1999, by scikit-learn's mini-batches of multiplicative updates (Lefevre, Bach and Fevotte 2011). Positive
and negative parts of a sample are factorised side by side as one vector of twice the width, and the two halves of each
component are subtracted to give a direction. Where activations are non-negative the second half is zero, and this is
plain NMF.

Semi-NMF (Ding, Li and Jordan 2010: Z >= 0, directions free) also allows both signs but is not used: with ``d_in + 1``
latents or more, any directions that surround the origin reconstruct every sample, so its objective says nothing about
the directions of an overcomplete dictionary. The objective here has the same weakness with ``2 d_in`` latents or more,
where the neurons reach it; the result then depends on the initial values.

The dictionary encodes by non-negative least squares over the directions (``fista`` without a penalty). NMF promotes no
sparsity beyond that of the signs.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from sae.baseline import BaselineConfig, training_rows
from sae.encoders.fista import Fista
from sae.numerics.fit_cost import FitCost
from sae.numerics.matching import unit
from sae.source import Source

_BATCH = 1024
CODE_ITERATIONS = 200
"""Maximum number of iterations of the least squares that encodes a sample."""


class Config(BaselineConfig):
    """Mini-batch NMF of the positive and negative parts."""

    kind: Literal["nmf"] = "nmf"
    n_latents: int = Field(gt=0)
    """Number of directions; those that come out zero are left out."""
    n_samples: int = Field(8000, gt=1)
    """Number of training samples."""
    n_iterations: int = Field(30, gt=0)
    """Maximum number of epochs."""

    def fit(self, source: Source, seed: int) -> Fista:
        from sklearn.decomposition import MiniBatchNMF
        from sklearn.exceptions import ConvergenceWarning

        x = training_rows(source, self.n_samples, seed)
        nmf = MiniBatchNMF(
            cast(Any, self.n_latents), init="random", batch_size=_BATCH, max_iter=self.n_iterations, random_state=seed
        )
        with warnings.catch_warnings():
            # The card records whether NMF converged, so the warning is not needed.
            warnings.simplefilter("ignore", ConvergenceWarning)
            nmf.fit(torch.cat([x.relu(), (-x).relu()], 1).numpy())
        W_dec = signed_directions(torch.from_numpy(nmf.components_).float())
        d = Fista.over(W_dec, torch.zeros(source.d_in), l1=0.0, n_iterations=CODE_ITERATIONS, tolerance=1e-4)
        # A step updates the codes of a batch, then the directions, each by a product with the samples and one with a
        # Gram matrix, which is recomputed.
        steps, n, d_in = int(nmf.n_steps_), self.n_latents, source.d_in
        batch = min(_BATCH, len(x))
        work = steps * (2 * batch * n * (2 * d_in + n) + 4 * n**2 * d_in)
        return d.with_card(
            iterations=int(nmf.n_iter_),
            converged=int(nmf.n_iter_) < self.n_iterations,
            **FitCost(len(x), steps * batch, work).card_entry(),
        )


def signed_directions(halves: Float[Tensor, "n_components twice_d_in"]) -> Float[Tensor, "n_latents d_in"]:
    """``h+ - h-``, scaled to norm one; differences that are zero are left out."""
    plus, minus = halves.chunk(2, 1)
    directions = plus - minus
    return unit(directions[directions.any(-1)])
