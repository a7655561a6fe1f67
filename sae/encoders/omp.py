"""Non-negative orthogonal matching pursuit: one latent after the other, each time least squares over all so far.

    j   = argmax_j  <x - b_dec - z W_dec, W_dec[j]> / ||W_dec[j]||
    z_S = argmin_{z_S >= 0} ||x - b_dec - z_S W_dec[S]||^2,    S = S + {j}

Pati et al. 1993, 'Orthogonal matching pursuit'; Bruckstein, Elad and Zibulevsky 2008 for the sign: a latent that least
squares would make negative leaves S and may come back later.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from sae.dictionary import Dictionary
from sae.encoder import EncoderConfig
from sae.numerics.sparse_coding import pursuit
from sae.source import Source

OMP_ROWS_AT_ONCE = 1024
"""Bounds the memory of the directions that are gathered for every row."""


class Config(EncoderConfig):
    """Settings: at most `k` latents a row, fewer where the residual's norm falls to `tolerance` times that of
    ``x - b_dec``."""

    kind: Literal["omp"] = "omp"
    k: int = Field(16, gt=0)
    tolerance: float = Field(0.1, ge=0, lt=1)

    def fit(self, d: Dictionary, source: Source | None, seed: int) -> Omp:
        zeros = torch.zeros_like(d.b_enc)
        return Omp(d.W_dec.T.contiguous(), d.W_dec, zeros, d.b_dec, k=self.k, tolerance=self.tolerance)


@dataclass(frozen=True, eq=False)
class Omp(Dictionary):
    """Matching pursuit over `W_dec`; `W_enc` is its transpose and `b_enc` zero."""

    kind: ClassVar[str] = "omp"

    k: int = 1
    tolerance: float = 0.0

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch n_latents"]:
        centred = (x - self.b_dec).reshape(-1, self.d_in)
        pieces = [
            pursuit(rows @ self.W_enc, self.W_dec, rows.square().sum(-1), self.k, self.tolerance)
            for rows in centred.split(OMP_ROWS_AT_ONCE)
        ]
        return torch.cat(pieces).reshape(*x.shape[:-1], self.n_latents)

    def multiply_adds(self) -> int:
        """At most: every step is a product with all directions, a Gram matrix of the chosen ones and its solution."""
        one_product = self.n_latents * min(self.n_latents, 2 * self.d_in)
        small = sum(t * t * self.d_in + t**3 // 3 for t in range(1, self.k + 1))
        return self.d_in * self.n_latents + self.k * one_product + small

    def settings(self) -> dict[str, float | int | str | bool]:
        return {"k": self.k, "tolerance": self.tolerance}


KIND = Omp
