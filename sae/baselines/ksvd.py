"""k-SVD: sparse coding by matching pursuit, alternating with updates of one direction at a time and its codes.

    Z   = OMP_k(X, D),  Z >= 0                                  codes of at most k directions per sample
    E_j = (X - Z D + z_j d_j) over the samples that use d_j     the residual without direction j
    z_j d_j = the rank-one matrix nearest to E_j with z_j >= 0  the new direction and its new codes, for j in order

Aharon, Elad and Bruckstein 2006, 'K-SVD: an algorithm for designing overcomplete dictionaries for sparse
representation'. There are two differences. First, codes are non-negative, because those of every dictionary here are
(also in Aharon, Elad and Bruckstein 2005, 'K-SVD and its non-negative variant', where directions are non-negative
too). The nearest rank-one matrix is therefore found by power iterations that set negative codes to zero, starting at
the current direction. Where no code is set to zero they converge to the singular value decomposition of the paper; a
single iteration is the update of Rubinstein, Zibulevsky and Elad 2008. Second, directions are initialised with
samples, and after each coding step two kinds of direction are replaced by the samples with the largest residuals:
those that fewer than `least_used` samples use, and the less used of any two whose cosine is above `same`.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from sae.baseline import BaselineConfig, training_rows
from sae.encoders.omp import OMP_SAMPLES_AT_ONCE, Omp
from sae.numerics.fit_cost import FitCost
from sae.numerics.matching import unit
from sae.numerics.seeds import generator
from sae.numerics.sparse_coding import pursuit
from sae.registry import UserError
from sae.source import Source

POWER_ITERATIONS = 3
"""Power iterations per update of a direction."""


class Config(BaselineConfig):
    """k-SVD with non-negative codes; the dictionary encodes by matching pursuit.

    `k` is at most `n_latents`. Fitting raises `UserError` where there are fewer non-zero samples than directions.
    """

    kind: Literal["ksvd"] = "ksvd"
    n_latents: int = Field(gt=0)
    """Number of directions."""
    k: int = Field(6, gt=0)
    """Maximum number of active latents per sample."""
    n_samples: int = Field(8000, gt=1)
    """Number of training samples."""
    n_iterations: int = Field(20, gt=0)
    """Number of rounds; each codes all samples once and updates every direction once."""
    tolerance: float = Field(0.0, ge=0, lt=1)
    """The pursuit of a sample stops early when the norm of its residual falls to this share of the sample's norm."""
    least_used: int = Field(1, gt=0)
    """Directions that fewer samples use are replaced."""
    same: float = Field(0.99, gt=0, le=1)
    """Cosine above which the less used of two directions is replaced."""

    @model_validator(mode="after")
    def _k_fits(self) -> Config:
        if self.k > self.n_latents:
            raise UserError(f"k = {self.k}: more than n_latents = {self.n_latents}; lower k or raise n_latents")
        return self

    def fit(self, source: Source, seed: int) -> Omp:
        x = training_rows(source, self.n_samples, seed)
        rows = x[x.any(-1)]
        if len(rows) < self.n_latents:
            raise UserError(
                f"ksvd: n_latents = {self.n_latents}: only {len(rows)} samples are not zero; "
                "lower n_latents or raise n_samples"
            )
        first = torch.randperm(len(rows), generator=generator("ksvd", seed))[: self.n_latents]
        W_dec = unit(rows[first])
        for _ in range(self.n_iterations):
            z = pursuit_codes(x, W_dec, self.k, self.tolerance)
            W_dec, z = self.replace_unused(x, z, W_dec)
            W_dec = updated_directions(x, z, W_dec)
        zeros = torch.zeros(self.n_latents), torch.zeros(source.d_in)
        d = Omp(W_dec.T.contiguous(), W_dec, *zeros, k=self.k, tolerance=self.tolerance)
        # Per sample: its codes and residual, then two products per power iteration for each direction that it uses.
        per_sample = d.multiply_adds() + self.k * (2 * POWER_ITERATIONS + 2) * source.d_in
        samples = self.n_iterations * len(x)
        return d.with_card(**FitCost(len(x), samples, samples * per_sample).card_entry())

    def replace_unused(self, x: Tensor, z: Tensor, W_dec: Tensor) -> tuple[Tensor, Tensor]:
        """Replaces unused and duplicate directions by the samples with the largest residuals; returns the new
        directions, and the codes with those of the replaced directions set to zero."""
        n_uses = (z > 0).sum(0)
        order = n_uses.argsort(descending=True, stable=True)
        duplicate = (W_dec[order] @ W_dec[order].T > self.same).tril(-1).any(1)  # of a direction that is used more
        replaced = n_uses < self.least_used
        replaced[order[duplicate]] = True
        z = z.masked_fill(replaced, 0)
        error = (x - z @ W_dec).square().sum(-1)
        worst = error.argsort(descending=True, stable=True)[: int(replaced.sum())]
        W_dec = W_dec.clone()
        W_dec[replaced.nonzero()[: len(worst), 0]] = unit(x[worst])
        return W_dec, z


def pursuit_codes(
    x: Float[Tensor, "batch d_in"], W_dec: Float[Tensor, "n_latents d_in"], k: int, tolerance: float
) -> Float[Tensor, "batch n_latents"]:
    """Codes by non-negative matching pursuit, computed in blocks of samples."""
    pieces = [pursuit(r @ W_dec.T, W_dec, r.square().sum(-1), k, tolerance) for r in x.split(OMP_SAMPLES_AT_ONCE)]
    return torch.cat(pieces)


def updated_directions(
    x: Float[Tensor, "batch d_in"], z: Float[Tensor, "batch n_latents"], W_dec: Float[Tensor, "n_latents d_in"]
) -> Float[Tensor, "n_latents d_in"]:
    """Updates the directions in order, each given the new codes of those before it. A direction that no sample uses,
    or whose new codes are all zero, does not change."""
    W_dec, residual = W_dec.clone(), x - z @ W_dec
    for j, z_j in enumerate(z.T.contiguous()):
        rows = z_j.nonzero()[:, 0]
        error = residual[rows] + z_j[rows, None] * W_dec[j]
        direction, code = W_dec[j], z_j[rows]
        for _ in range(POWER_ITERATIONS):
            product = code @ error
            if not bool(product.any()):
                break
            direction = product / product.norm()
            code = torch.relu(error @ direction)
        if bool(code.any()):
            W_dec[j] = direction
            residual[rows] = error - code[:, None] * direction
    return W_dec
