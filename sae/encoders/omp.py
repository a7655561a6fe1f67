"""Non-negative orthogonal matching pursuit: adds one latent at a time, each time refitting all codes by least squares.

    j   = argmax_j  <x - b_dec - z W_dec, W_dec[j]> / ||W_dec[j]||
    z_S = argmin_{z_S >= 0} ||x - b_dec - z_S W_dec[S]||^2,    S = S + {j}

Pati et al. 1993, 'Orthogonal matching pursuit'; Bruckstein, Elad and Zibulevsky 2008 for non-negative codes: a latent
whose least-squares code would be negative leaves S and may be added again later.
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

OMP_SAMPLES_AT_ONCE = 1024
"""Samples that are coded at once; bounds the memory of the directions gathered for each sample."""


class Config(EncoderConfig):
    """Replaces the encoder by matching pursuit over the directions."""

    kind: Literal["omp"] = "omp"
    k: int = Field(16, gt=0)
    """Maximum number of active latents per sample."""
    tolerance: float = Field(0.1, ge=0, lt=1)
    """The pursuit stops when the norm of the residual falls to this share of the norm of ``x - b_dec``."""

    def fit(self, d: Dictionary, source: Source | None, seed: int) -> Omp:
        zeros = torch.zeros_like(d.b_enc)
        return Omp(d.W_dec.T.contiguous(), d.W_dec, zeros, d.b_dec, k=self.k, tolerance=self.tolerance)


@dataclass(frozen=True, eq=False)
class Omp(Dictionary):
    """Dictionary that encodes by matching pursuit over `W_dec`; `W_enc` is its transpose and `b_enc` zero."""

    kind: ClassVar[str] = "omp"

    k: int = 1
    """Maximum number of active latents per sample."""
    tolerance: float = 0.0
    """The pursuit stops when the norm of the residual falls to this share of the norm of ``x - b_dec``."""

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch n_latents"]:
        centred = self.centred(x).reshape(-1, self.d_in)
        pieces = [
            pursuit(rows @ self.W_enc, self.W_dec, rows.square().sum(-1), self.k, self.tolerance)
            for rows in centred.split(OMP_SAMPLES_AT_ONCE)
        ]
        return torch.cat(pieces).reshape(*x.shape[:-1], self.n_latents)

    def multiply_adds(self) -> int:
        """An upper bound: each step is a product with all directions, and the Gram matrix of the chosen ones with its
        solution."""
        product = self.n_latents * min(self.n_latents, 2 * self.d_in)
        solves = sum(t * t * self.d_in + t**3 // 3 for t in range(1, self.k + 1))
        return self.d_in * self.n_latents + self.k * product + solves

    def settings(self) -> dict[str, float | int | str | bool]:
        return {"k": self.k, "tolerance": self.tolerance}


KIND = Omp
