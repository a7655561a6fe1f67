"""Non-negative matrix factorisation of activations that have both signs.

    [x+, x-] = z [h+, h-],  z >= 0, h >= 0;    direction h+ - h-,  so that x = z (h+ - h-)

Lee and Seung 1999, by scikit-learn's mini-batches of multiplicative updates (Lefevre, Bach and Fevotte 2011). Rows are
parted into what is positive and what is negative, each a half of twice as wide a row, and directions are folded back.
Where activations are not negative the second half is zero, and it is plain NMF.

Semi-NMF (Ding, Li and Jordan 2010: Z >= 0, directions free), the other way to have both signs, is not what is done:
from ``d_in + 1`` latents on, any directions that surround the origin reconstruct every row, so that its objective says
nothing of the directions of an overcomplete dictionary. Here too the objective can be met by the neurons, with
``2 d_in`` latents or more; what comes out then is owed to where it began.

It is read by non-negative least squares over the directions (``fista`` without a penalty), the code that belongs to it
with the halves folded. NMF asks for no sparsity beyond that of the signs.
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
"""The most iterations of a row's least squares."""


class Config(BaselineConfig):
    """Settings; `n_latents` directions from `n_samples` rows, looked at in at most `n_iterations` epochs."""

    kind: Literal["nmf"] = "nmf"
    n_latents: int = Field(gt=0)
    n_samples: int = Field(8000, gt=1)
    n_iterations: int = Field(30, gt=0)

    def fit(self, source: Source, seed: int) -> Fista:
        from sklearn.decomposition import MiniBatchNMF
        from sklearn.exceptions import ConvergenceWarning

        x = training_rows(source, self.n_samples, seed)
        nmf = MiniBatchNMF(
            cast(Any, self.n_latents), init="random", batch_size=_BATCH, max_iter=self.n_iterations, random_state=seed
        )
        with warnings.catch_warnings():
            # The budget is stated; whether it was enough goes on the card, not to the terminal.
            warnings.simplefilter("ignore", ConvergenceWarning)
            nmf.fit(torch.cat([x.relu(), (-x).relu()], 1).numpy())
        W_dec = folded(torch.from_numpy(nmf.components_).float())
        d = Fista.over(W_dec, torch.zeros(source.d_in), l1=0.0, n_iterations=CODE_ITERATIONS, tolerance=1e-4)
        # A step updates the codes of a batch, then the directions, each by a product with the rows and one with a Gram
        # matrix, which it makes anew.
        steps, n, d_in = int(nmf.n_steps_), self.n_latents, source.d_in
        batch = min(_BATCH, len(x))
        work = steps * (2 * batch * n * (2 * d_in + n) + 4 * n**2 * d_in)
        return d.with_card(
            iterations=int(nmf.n_iter_),
            converged=int(nmf.n_iter_) < self.n_iterations,
            **FitCost(len(x), steps * batch, work).card_entry(),
        )


def folded(halves: Float[Tensor, "n_components twice"]) -> Float[Tensor, "n_latents d_in"]:
    """``h+ - h-``, scaled to norm one; what folds to nothing is left out."""
    plus, minus = halves.chunk(2, 1)
    found = plus - minus
    return unit(found[found.any(-1)])
