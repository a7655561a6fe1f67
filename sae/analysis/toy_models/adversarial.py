"""How far a small push of the input moves a toy model's output: what superposition costs in robustness.

For a tied model with a ReLU at its output, rows W_i for features,

    x' = ReLU(x W W^T + b),    L = E sum_i I_i (x_i - x'_i)^2,

the push of length lambda that moves output i most is along row i of W W^T. Of those of all features, both ways,

    delta = +- lambda (W W^T)_i / ||(W W^T)_i||,

each row x takes its worst: ``L' = E max_delta sum_i I_i (x_i - f(x + delta)_i)^2`` (Elhage et al. 2022, 'Toy Models of
Superposition', where lambda is a tenth of the mean norm of x). Gradient attacks mislead here: where a ReLU is off they
see nothing. `vulnerability` is ``(L' - L) / (L'_0 - L_0)``, the rise against that of a model without superposition.

Orthonormal W without bias answers a push of lambda with a rise of exactly lambda^2; a pentagon of unit norm at x = 0
with ``5 cos^2 36 lambda^2 = 3.27 lambda^2``, by a push against a feature, which raises the two opposite.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sae.numerics.matching import unit
from sae.registry import UserError

NUMBERS_AT_ONCE = 2**24


@dataclass(frozen=True)
class Attack:
    """The loss as it is and under attack, the length of the push, and how often each push was the worst:
    ``[2 n]``, along every feature's row and then against it."""

    clean: float
    attacked: float
    length: float
    share: Float[Tensor, " n_pushes"]

    @property
    def rise(self) -> float:
        return self.attacked - self.clean


def vulnerability(model: Attack, without: Attack) -> float:
    """The rise of a model's loss against that of one without superposition."""
    if without.rise <= 0:
        raise UserError(f"without: its loss rises by {without.rise:.3g} under attack, which leaves nothing to compare")
    return model.rise / without.rise


def attack(
    W: Float[Tensor, "n m"],
    b: Tensor,
    x: Tensor,
    share: float = 0.1,
    length: float | None = None,
    importance: Float[Tensor, " n"] | None = None,
) -> Attack:
    """The worst push for each row of `x` ``[rows, n]``, of `length`, or of `share` of the mean norm of `x` without it;
    `b` ``[n]`` is the bias.

    Raises ``ValueError`` where shapes do not fit.
    """
    if W.ndim != 2 or b.shape != W.shape[:1] or x.ndim != 2 or x.shape[1] != len(W):
        raise UserError(f"W {list(W.shape)}, b {list(b.shape)}, x {list(x.shape)}: give [n, m], [n] and [rows, n]")
    step = share * float(x.norm(dim=1).mean()) if length is None else length
    weight = torch.ones_like(b) if importance is None else importance
    pushes = step * unit(W @ W.T)
    moved = torch.cat([pushes, -pushes]) @ W @ W.T  # the model is linear up to its ReLU, so pushes move it alike
    before = x @ W @ W.T + b
    clean = (((x - before.relu()).square()) * weight).sum(1, dtype=torch.float64)
    worst, of = torch.empty_like(clean), torch.empty(len(x), dtype=torch.int64, device=x.device)
    rows_at_once = max(1, NUMBERS_AT_ONCE // moved.numel())
    for start in range(0, len(x), rows_at_once):
        part = slice(start, start + rows_at_once)
        error = (x[part, None] - (before[part, None] + moved).relu()).square()
        worst[part], of[part] = (error * weight).sum(2, dtype=torch.float64).max(1)
    counts = of.bincount(minlength=len(moved)) / len(x)
    return Attack(float(clean.mean()), float(worst.mean()), step, counts)
