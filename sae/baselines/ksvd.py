"""k-SVD: sparse coding by matching pursuit, and directions that are renewed one at a time, each with its own codes.

    Z   = OMP_k(X, D),  Z >= 0                                  codes of at most k directions a row
    E_j = (X - Z D + z_j d_j) over the rows that use d_j        what the other directions leave of them
    z_j d_j = the rank one nearest to E_j with z_j >= 0         the new direction and its new codes, j after j

Aharon, Elad and Bruckstein 2006, 'K-SVD: an algorithm for designing overcomplete dictionaries for sparse
representation'. Two things are ours. Codes are not negative (as in Aharon, Elad and Bruckstein 2005, 'K-SVD and its
non-negative variant', whose directions are not negative either): a dictionary's codes are not, and a feature that is
active has a sign. So the nearest rank one is found by power iterations with the negative codes set to zero, from the
direction that was there, in place of a singular value decomposition, which they give where nothing is cut off; with
one such iteration it is that of Rubinstein, Zibulevsky and Elad 2008. Directions begin as rows of the data; whenever
codes have been found, those that fewer than `least_used` rows use, and the less used of two whose cosine is above
`same`, give way to the rows that are worst explained.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from sae.baseline import BaselineConfig, training_rows
from sae.encoders.omp import OMP_ROWS_AT_ONCE, Omp
from sae.numerics.fit_cost import FitCost
from sae.numerics.matching import unit
from sae.numerics.seeds import generator
from sae.numerics.sparse_coding import pursuit
from sae.registry import UserError
from sae.source import Source

POWER = 3
"""Power iterations to renew a direction."""


class Config(BaselineConfig):
    """Settings; `n_latents` directions fitted to `n_samples` rows in `n_iterations` rounds, read by matching pursuit of
    `k` steps, fewer where the residual's norm falls to `tolerance` times the row's."""

    kind: Literal["ksvd"] = "ksvd"
    n_latents: int = Field(gt=0)
    k: int = Field(6, gt=0)
    n_samples: int = Field(8000, gt=1)
    n_iterations: int = Field(20, gt=0)
    tolerance: float = Field(0.0, ge=0, lt=1)
    least_used: int = Field(1, gt=0)
    same: float = Field(0.99, gt=0, le=1)

    @model_validator(mode="after")
    def _k_fits(self) -> Config:
        if self.k > self.n_latents:
            raise UserError(f"k = {self.k} is more than n_latents = {self.n_latents}")
        return self

    def fit(self, source: Source, seed: int) -> Omp:
        x = training_rows(source, self.n_samples, seed)
        rows = x[x.any(-1)]
        if len(rows) < self.n_latents:
            raise UserError(
                f"ksvd: n_latents = {self.n_latents}, but there are {len(rows)} rows other than zero; "
                "ask for fewer, or for more n_samples"
            )
        first = torch.randperm(len(rows), generator=generator("ksvd", seed))[: self.n_latents]
        W_dec = unit(rows[first])
        for _ in range(self.n_iterations):
            z = codes(x, W_dec, self.k, self.tolerance)
            W_dec, z = self.replaced(x, z, W_dec)
            W_dec = renewed(x, z, W_dec)
        zeros = torch.zeros(self.n_latents), torch.zeros(source.d_in)
        d = Omp(W_dec.T.contiguous(), W_dec, *zeros, k=self.k, tolerance=self.tolerance)
        # Codes and residuals of every row, then two products a power iteration with each row that uses a direction.
        a_row = d.multiply_adds() + self.k * (2 * POWER + 2) * source.d_in
        samples = self.n_iterations * len(x)
        return d.with_card(**FitCost(len(x), samples, samples * a_row).card_entry())

    def replaced(self, x: Tensor, z: Tensor, W_dec: Tensor) -> tuple[Tensor, Tensor]:
        """Directions with those that are unused or twice there replaced by the worst explained rows, and the codes
        without those of what is gone."""
        used = (z > 0).sum(0)
        order = used.argsort(descending=True, stable=True)
        alike = (W_dec[order] @ W_dec[order].T > self.same).tril(-1).any(1)  # to one that is used more
        gone = used < self.least_used
        gone[order[alike]] = True
        z = z.masked_fill(gone, 0)
        error = (x - z @ W_dec).square().sum(-1)
        worst = error.argsort(descending=True, stable=True)[: int(gone.sum())]
        W_dec = W_dec.clone()
        W_dec[gone.nonzero()[: len(worst), 0]] = unit(x[worst])
        return W_dec, z


def codes(
    x: Float[Tensor, "rows d_in"], W_dec: Float[Tensor, "n_latents d_in"], k: int, tolerance: float
) -> Float[Tensor, "rows n_latents"]:
    """Non-negative matching pursuit, a piece at a time."""
    pieces = [pursuit(r @ W_dec.T, W_dec, r.square().sum(-1), k, tolerance) for r in x.split(OMP_ROWS_AT_ONCE)]
    return torch.cat(pieces)


def renewed(
    x: Float[Tensor, "rows d_in"], z: Float[Tensor, "rows n_latents"], W_dec: Float[Tensor, "n_latents d_in"]
) -> Float[Tensor, "n_latents d_in"]:
    """The directions, one after the other; each sees the new codes of those before it. One that no row uses, or whose
    codes all come out zero, stays."""
    W_dec, residual = W_dec.clone(), x - z @ W_dec
    for j, z_j in enumerate(z.T.contiguous()):
        rows = z_j.nonzero()[:, 0]
        error = residual[rows] + z_j[rows, None] * W_dec[j]
        direction, code = W_dec[j], z_j[rows]
        for _ in range(POWER):
            towards = code @ error
            if not bool(towards.any()):
                break
            direction = towards / towards.norm()
            code = torch.relu(error @ direction)
        if bool(code.any()):
            W_dec[j] = direction
            residual[rows] = error - code[:, None] * direction
    return W_dec
