"""Codes by optimisation over the decoder: a non-negative lasso.

    z = argmin_{z >= 0}  1/2 ||x - b_dec - z W_dec||^2 + l1 * sum_j ||W_dec[j]|| z_j

solved by FISTA (Beck and Teboulle 2009) until the codes of a sample converge, then thresholded, then, with ``debias``,
refitted by least squares on the latents that remain active. It shows how good a set of directions is where the encoder
is not the limit; the oracle uses it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from sae.dictionary import Dictionary
from sae.encoder import LassoConfig
from sae.numerics.sparse_coding import debiased, lasso, lasso_multiply_adds
from sae.numerics.thresholding import above
from sae.source import Source


class Config(LassoConfig):
    """Replaces the encoder by a non-negative lasso."""

    kind: Literal["fista"] = "fista"
    debias: bool = False
    """Whether to refit the codes above the threshold by non-negative least squares, which removes the shrinkage."""

    def fit(self, d: Dictionary, source: Source | None, seed: int) -> Fista:
        l1, threshold = self.raw(d, source)
        return Fista.over(d.W_dec, d.b_dec, l1, self.n_iterations, threshold, self.tolerance, self.debias)


@dataclass(frozen=True, eq=False)
class Fista(Dictionary):
    """Dictionary with non-negative lasso codes.

    `W_enc` and `b_enc` are those of the first iteration, ``W_dec^T`` and ``-l1 ||W_dec[j]||``.
    """

    kind: ClassVar[str] = "fista"

    l1: float = 0.01
    """Penalty of the lasso, in units of the activations."""
    n_iterations: int = 100
    """Maximum number of FISTA iterations per sample."""
    threshold: float = 0.0
    """Codes up to this value are set to zero, in units of the activations."""
    tolerance: float = 0.0
    """FISTA stops when no code of a sample changes by more than this share of the sample's largest code."""
    debias: bool = False
    """Whether the codes above the threshold are refitted by non-negative least squares."""

    @classmethod
    def over(
        cls,
        W_dec: Tensor,
        b_dec: Tensor,
        l1: float,
        n_iterations: int = 100,
        threshold: float = 0.0,
        tolerance: float = 0.0,
        debias: bool = False,
    ) -> Fista:
        """The dictionary with the directions `W_dec` (one per row) and non-negative lasso codes."""
        # In the order in which it is stored: products with another are rounded differently on some processors.
        W_dec = W_dec.contiguous()
        b_enc = -l1 * W_dec.norm(dim=-1)
        return cls(
            W_dec.T.contiguous(),
            W_dec,
            b_enc,
            b_dec,
            l1=l1,
            n_iterations=n_iterations,
            threshold=threshold,
            tolerance=tolerance,
            debias=debias,
        )

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch n_latents"]:
        correlation = self.centred(x) @ self.W_enc
        z = lasso(correlation + self.b_enc, self.W_dec, self.n_iterations, self.tolerance)
        z = above(z, self.threshold)
        return debiased(z, correlation, self.W_dec, self.n_iterations, self.tolerance) if self.debias else z

    def multiply_adds(self) -> int:
        """An upper bound: samples that converge early cost less."""
        refit = self.n_iterations if self.debias else 0
        return lasso_multiply_adds(self.W_dec, self.n_iterations + refit)

    def settings(self) -> dict[str, float | int | str | bool]:
        names = ("l1", "n_iterations", "threshold", "tolerance", "debias")
        return {name: getattr(self, name) for name in names}


KIND = Fista
