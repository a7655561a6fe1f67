"""Adversarial attacks on toy models: the cost of superposition in robustness.

For a tied model with a ReLU at its output and rows W_i for features,

    x' = ReLU(x W W^T + b),    L = E sum_i I_i (x_i - x'_i)^2,

the perturbation of norm lambda that moves output i most is along row i of W W^T. Among those of all features, with both
signs,

    delta = +- lambda (W W^T)_i / ||(W W^T)_i||,

each sample gets the worst: ``L' = E max_delta sum_i I_i (x_i - f(x + delta)_i)^2`` (Elhage et al. 2022, 'Toy Models of
Superposition', where lambda is a tenth of the mean norm of x). Gradient attacks are misleading here, as the gradient
vanishes where a ReLU is off. `vulnerability` is ``(L' - L) / (L'_0 - L_0)``, the rise relative to that of a model
without superposition.

Orthonormal W without bias has a rise of exactly lambda^2; a pentagon of unit norm at x = 0 has
``5 cos^2 36 lambda^2 = 3.27 lambda^2``, from a perturbation against a feature, which raises the two opposite outputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sae.numerics.matching import unit
from sae.registry import UserError

NUMBERS_AT_ONCE = 2**24
"""Perturbed outputs that are held in memory at once."""


@dataclass(frozen=True)
class Attack:
    """The loss of a toy model with and without an attack."""

    clean: float
    """Mean loss without the attack."""
    attacked: float
    """Mean loss under the worst perturbation of each sample."""
    length: float
    """The norm of the perturbation."""
    share: Float[Tensor, " n_perturbations"]
    """The share of samples for which each perturbation is the worst: ``[2 n]``, along every feature's row, then against
    it."""

    @property
    def rise(self) -> float:
        """`attacked` minus `clean`."""
        return self.attacked - self.clean


def vulnerability(model: Attack, without: Attack) -> float:
    """The rise of a model's loss under attack, divided by that of a model `without` superposition.

    Raises `UserError` if the loss of the latter does not rise.
    """
    if without.rise <= 0:
        raise UserError(f"without: its loss rises by {without.rise:.3g} under attack; give a model whose loss rises")
    return model.rise / without.rise


def attack(
    W: Float[Tensor, "n m"],
    b: Tensor,
    x: Tensor,
    share: float = 0.1,
    length: float | None = None,
    importance: Float[Tensor, " n"] | None = None,
) -> Attack:
    """Attacks each sample of `x` ``[batch, n]`` with its worst perturbation of norm `length`, by default `share` times
    the mean norm of `x`; `b` ``[n]`` is the bias.

    Raises `UserError` if shapes do not fit.
    """
    if W.ndim != 2 or b.shape != W.shape[:1] or x.ndim != 2 or x.shape[1] != len(W):
        raise UserError(f"W {list(W.shape)}, b {list(b.shape)}, x {list(x.shape)}: give [n, m], [n] and [batch, n]")
    step = share * float(x.norm(dim=1).mean()) if length is None else length
    weight = torch.ones_like(b) if importance is None else importance
    perturbations = step * unit(W @ W.T)
    # The model is linear before its ReLU, so a perturbation moves all samples alike.
    moved = torch.cat([perturbations, -perturbations]) @ W @ W.T
    before = x @ W @ W.T + b
    clean = (((x - before.relu()).square()) * weight).sum(1, dtype=torch.float64)
    worst, which = torch.empty_like(clean), torch.empty(len(x), dtype=torch.int64, device=x.device)
    rows_at_once = max(1, NUMBERS_AT_ONCE // moved.numel())
    for start in range(0, len(x), rows_at_once):
        part = slice(start, start + rows_at_once)
        error = (x[part, None] - (before[part, None] + moved).relu()).square()
        worst[part], which[part] = (error * weight).sum(2, dtype=torch.float64).max(1)
    shares = which.bincount(minlength=len(moved)) / len(x)
    return Attack(float(clean.mean()), float(worst.mean()), step, shares)
