"""The sparse-coding dictionary: codes by optimisation over the decoder, not by one layer.

    z = argmin_{z >= 0}  1/2 ||x - b_dec - z W_dec||^2 + l1 * sum_j z_j

solved by FISTA (Beck and Teboulle 2009), followed by a threshold. It tells how good a set of directions is
when its encoder is not the limit; the oracle and the classical dictionary learners are read this way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from sae.dictionary import Dictionary


@dataclass(frozen=True, eq=False)
class Lasso(Dictionary):
    """Non-negative lasso codes; `W_enc` and `b_enc` are the first step of the iteration, ``W_dec^T`` and ``-l1``."""

    kind: ClassVar[str] = "lasso"

    l1: float = 0.01
    n_iterations: int = 100
    threshold: float = 0.0

    @classmethod
    def over(cls, W_dec: Tensor, b_dec: Tensor, l1: float, n_iterations: int = 100, threshold: float = 0.0) -> Lasso:
        """The dictionary that reads the directions `W_dec` (rows) with non-negative lasso codes."""
        b_enc = torch.full((W_dec.shape[0],), -l1, dtype=W_dec.dtype)
        return cls(W_dec.T.contiguous(), W_dec, b_enc, b_dec, l1=l1, n_iterations=n_iterations, threshold=threshold)

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch n_latents"]:
        correlation = (x - self.b_dec) @ self.W_enc + self.b_enc
        gram = self.W_dec @ self.W_dec.T
        step = 1 / torch.linalg.matrix_norm(gram, ord=2).clamp_min(1e-12)
        z = torch.zeros_like(correlation)
        ahead, t = z, 1.0
        for _ in range(self.n_iterations):
            previous = z
            z = torch.relu(ahead + step * (correlation - ahead @ gram))
            t_next = (1 + (1 + 4 * t * t) ** 0.5) / 2
            ahead = z + ((t - 1) / t_next) * (z - previous)
            t = t_next
        return torch.where(z > self.threshold, z, torch.zeros_like(z))

    def settings(self) -> dict[str, float | int | str | bool]:
        return {"l1": self.l1, "n_iterations": self.n_iterations, "threshold": self.threshold}


KIND = Lasso
