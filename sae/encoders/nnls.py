"""Least squares on the support that one layer gives: it says what fires, the decoder says how much.

    S = {j : pre_j > threshold_j},  of these the k largest;    pre = (x - b_dec) W_enc + b_enc
    z = argmin_{z >= 0, z = 0 outside S} ||x - b_dec - z W_dec||^2

Non-negative least squares by accelerated projected gradient (Lawson and Hanson 1974 state the problem). What differs
from the dictionary's own encoder is the magnitudes alone, freed of the shrinkage that L1 leaves: the 'debiasing' of
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
from sae.encoder import EncoderConfig
from sae.numerics.sparse_coding import lasso, lasso_multiply_adds
from sae.numerics.thresholding import above, largest
from sae.registry import UserError
from sae.source import Source


class Config(EncoderConfig):
    """Settings; `k` restricts the support to the largest codes of the dictionary's own encoder, where it is given.
    At most `n_iterations`, fewer where no code changes by more than `tolerance` times the row's largest."""

    kind: Literal["nnls"] = "nnls"
    k: int | None = Field(None, gt=0)
    n_iterations: int = Field(200, gt=0)
    tolerance: float = Field(1e-4, ge=0)

    def fit(self, d: Dictionary, source: Source | None, seed: int) -> Dictionary:
        """Codes that are a lasso's already have a support of their own, on which they are debiased."""
        tensors, settings = d.tensors(), d.settings()
        if "debias" in settings and self.k is None:
            return replace(d, debias=True)
        threshold = tensors.pop("threshold", torch.zeros_like(d.b_enc))
        own_k = int(settings.pop("k", d.n_latents))
        settings.pop("levels", None)
        one_layer = d.multiply_adds() == d.d_in * d.n_latents
        if not one_layer or set(tensors) != {"W_enc", "W_dec", "b_enc", "b_dec"} or settings:
            raise UserError(
                f"encoder 'nnls' takes its support from one layer, which a {d.kind!r} dictionary is not read by; "
                "'fista' with debias = true takes it from a lasso"
            )
        k = min(self.k or d.n_latents, own_k, d.n_latents)
        layer = d.W_enc, d.W_dec, d.b_enc, d.b_dec
        return Nnls(*layer, threshold=threshold, k=k, n_iterations=self.n_iterations, tolerance=self.tolerance)


@dataclass(frozen=True, eq=False)
class Nnls(Dictionary):
    """Least-squares codes on a one-layer support."""

    kind: ClassVar[str] = "nnls"

    threshold: Float[Tensor, " n_latents"]
    k: int = 1
    n_iterations: int = 200
    tolerance: float = 0.0

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch n_latents"]:
        centred = x - self.b_dec
        pre = largest(above(torch.relu(centred @ self.W_enc + self.b_enc), self.threshold), self.k)
        correlation = centred @ self.W_dec.T
        return lasso(correlation, self.W_dec, self.n_iterations, self.tolerance, start=pre, support=pre > 0)

    def multiply_adds(self) -> int:
        """At most: a row that converges sooner costs less."""
        return self.d_in * self.n_latents + lasso_multiply_adds(self.W_dec, self.n_iterations)

    def settings(self) -> dict[str, float | int | str | bool]:
        return {"k": self.k, "n_iterations": self.n_iterations, "tolerance": self.tolerance}


KIND = Nnls
