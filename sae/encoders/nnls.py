"""Non-negative least squares on the support that one layer selects: the layer decides which latents fire, the decoder
decides their codes.

    S = {j : pre_j > threshold_j},  restricted to the k largest;    pre = (x - b_dec) W_enc + b_enc
    z = argmin_{z >= 0, z = 0 outside S} ||x - b_dec - z W_dec||^2

It is solved by accelerated projected gradient (Lawson and Hanson 1974 state the problem). Compared with the
dictionary's own encoder only the magnitudes change: they no longer have the shrinkage of L1. This is the 'debiasing' of
the lasso.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from sae.dictionary import Dictionary
from sae.encoder import EncoderConfig, one_layer
from sae.numerics.sparse_coding import lasso, lasso_multiply_adds
from sae.numerics.thresholding import above, largest
from sae.source import Source


class Config(EncoderConfig):
    """Replaces the codes of a one-layer encoder by least squares on their support."""

    kind: Literal["nnls"] = "nnls"
    k: int | None = Field(None, gt=0)
    """Restricts the support to the `k` largest codes of the dictionary's own encoder; no restriction if None."""
    n_iterations: int = Field(200, gt=0)
    """Maximum number of iterations per sample."""
    tolerance: float = Field(1e-4, ge=0)
    """Iteration stops when no code of a sample changes by more than this share of the sample's largest code."""

    def fit(self, d: Dictionary, source: Source | None, seed: int) -> Dictionary:
        """The dictionary with least-squares codes. A lasso dictionary is returned with ``debias`` set, because its
        codes have a support already. Raises `UserError` where the encoder of `d` is neither one layer nor a lasso."""
        if "debias" in d.settings() and self.k is None:
            return replace(d, debias=True)
        layer = one_layer(d, "encoder = 'nnls'")
        return Nnls(
            d.W_enc,
            d.W_dec,
            d.b_enc,
            d.b_dec,
            threshold=layer.threshold,
            k=min(self.k or d.n_latents, layer.k),
            n_iterations=self.n_iterations,
            tolerance=self.tolerance,
        )


@dataclass(frozen=True, eq=False)
class Nnls(Dictionary):
    """Dictionary with least-squares codes on the support of one layer."""

    kind: ClassVar[str] = "nnls"

    threshold: Float[Tensor, " n_latents"]
    """A latent is in the support where its pre-activation is above this."""
    k: int = 1
    """Maximum size of the support."""
    n_iterations: int = 200
    """Maximum number of iterations per sample."""
    tolerance: float = 0.0
    """Iteration stops when no code of a sample changes by more than this share of the sample's largest code."""

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch n_latents"]:
        centred = self.centred(x)
        pre = largest(above(torch.relu(centred @ self.W_enc + self.b_enc), self.threshold), self.k)
        correlation = centred @ self.W_dec.T
        return lasso(correlation, self.W_dec, self.n_iterations, self.tolerance, start=pre, support=pre > 0)

    def multiply_adds(self) -> int:
        """An upper bound: samples that converge early cost less."""
        return self.d_in * self.n_latents + lasso_multiply_adds(self.W_dec, self.n_iterations)

    def settings(self) -> dict[str, float | int | str | bool]:
        return {"k": self.k, "n_iterations": self.n_iterations, "tolerance": self.tolerance}


KIND = Nnls
