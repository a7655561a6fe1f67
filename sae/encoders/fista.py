"""Codes by optimisation over the decoder: a non-negative lasso.

    z = argmin_{z >= 0}  1/2 ||x - b_dec - z W_dec||^2 + l1 * sum_j ||W_dec[j]|| z_j

solved by FISTA (Beck and Teboulle 2009) until the codes of a row stand still, followed by a threshold, and by least
squares on what is left where ``debias`` is set. It tells how good a set of directions is when its encoder is not the
limit; the oracle is read this way.
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
    """Settings; `debias` gives back what the penalty took from the codes that are left after the threshold."""

    kind: Literal["fista"] = "fista"
    debias: bool = False

    def fit(self, d: Dictionary, source: Source | None, seed: int) -> Fista:
        l1, threshold = self.raw(d, source)
        return Fista.over(d.W_dec, d.b_dec, l1, self.n_iterations, threshold, self.tolerance, self.debias)


@dataclass(frozen=True, eq=False)
class Fista(Dictionary):
    """Non-negative lasso codes; `W_enc` and `b_enc` are the first step of the iteration, ``W_dec^T`` and
    ``-l1 ||W_dec[j]||``."""

    kind: ClassVar[str] = "fista"

    l1: float = 0.01
    n_iterations: int = 100
    threshold: float = 0.0
    tolerance: float = 0.0
    debias: bool = False

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
        """The dictionary that reads the directions `W_dec` (rows) with non-negative lasso codes."""
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
        correlation = (x - self.b_dec) @ self.W_enc
        z = lasso(correlation + self.b_enc, self.W_dec, self.n_iterations, self.tolerance)
        z = above(z, self.threshold)
        return debiased(z, correlation, self.W_dec, self.n_iterations, self.tolerance) if self.debias else z

    def multiply_adds(self) -> int:
        """At most: a row that converges sooner costs less."""
        refit = self.n_iterations if self.debias else 0
        return lasso_multiply_adds(self.W_dec, self.n_iterations + refit)

    def settings(self) -> dict[str, float | int | str | bool]:
        names = ("l1", "n_iterations", "threshold", "tolerance", "debias")
        return {name: getattr(self, name) for name in names}


KIND = Fista
