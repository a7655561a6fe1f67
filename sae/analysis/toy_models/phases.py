"""Phases of small toy models: the optimal treatment of the last feature in closed form, and that of a trained model.

Features are U[0, 1] with probability p, and zero otherwise; the loss is ``sum_i I_i E (x_i - x'_i)^2``. A feature that
is not represented contributes at best its variance ``p / 3 - p^2 / 4`` (with a bias at its mean p / 2). In a digon, two
features at W and -W, each loses what the other takes when both are active: ``E min(x_1, x_2)^2 = p^2 / 6``. Elhage et
al. 2022, 'Toy Models of Superposition', on the phase change; the paper plots trained models, the losses here are those
of the exact configurations.

Two features in one dimension, or three in two; the last feature has importance r, the others 1:

    ignored     the last is not represented                       r (p / 3 - p^2 / 4)
    dedicated   the last has a dimension to itself; of the others
                one is not represented (two features)             p / 3 - p^2 / 4
                two share the other dimension (three features),   p^2 / 3
                or one is not represented, whichever is less
    antipodal   the last shares a dimension with one other        (1 + r) p^2 / 6

`antipodal` has less loss than `ignored` for ``p < 4 r / (2 + 5 r)`` and, with two features, less than `dedicated` for
``p < 4 / (5 + 2 r)``: both are 4/7 at r = 1. With three features, `dedicated` has less loss than `antipodal` for r > 1.
"""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from sae.numerics.matching import unit
from sae.registry import UserError

Phase = Literal["ignored", "dedicated", "antipodal", "confused"]


def ignored_loss(p: float) -> float:
    """The loss of a feature that is not represented: its variance, ``p / 3 - p^2 / 4``."""
    return p / 3 - p**2 / 4


def linear_optimum(p: float, importance: Float[Tensor, " n"], m: int) -> float:
    """The optimal loss of a linear model with m dimensions, a mean over features: the m most important features are
    exact, whatever their sparsity, and the others lose their variance, ``(p / 3 - p^2 / 4) sum_{i >= m} I_i / n``."""
    rest = importance.double().sort(descending=True).values[m:]
    return ignored_loss(p) * float(rest.sum()) / len(importance)


def phase_losses(p: float, r: float, n_features: int = 2) -> dict[Phase, float]:
    """The loss of each configuration, a sum over features.

    Raises `UserError` unless 0 < p <= 1, r > 0 and `n_features` is 2 or 3.
    """
    if not 0 < p <= 1 or r <= 0 or n_features not in (2, 3):
        raise UserError(f"p = {p:g}, r = {r:g}, n_features = {n_features}: give 0 < p <= 1, r > 0, and 2 or 3 features")
    dedicated = ignored_loss(p) if n_features == 2 else min(ignored_loss(p), p**2 / 3)
    return {"ignored": r * ignored_loss(p), "dedicated": dedicated, "antipodal": (1 + r) * p**2 / 6}


def predicted(p: float, r: float, n_features: int = 2) -> Phase:
    """The configuration with the least loss."""
    losses = phase_losses(p, r, n_features)
    return min(losses, key=lambda phase: losses[phase])


def antipodal_below(r: float) -> float:
    """The p below which two features share one dimension: ``4 r / (2 + 5 r)`` for r <= 1, ``4 / (5 + 2 r)`` above."""
    return 4 * r / (2 + 5 * r) if r <= 1 else 4 / (5 + 2 * r)


def phase_of(W: Float[Tensor, "n m"], threshold: float = 0.5, opposite: float = 0.8, apart: float = 0.2) -> Phase:
    """The phase of a trained model, by the last row of W.

    ``ignored`` if its norm is below `threshold`; ``dedicated`` if its |cosine| with every other represented row is at
    most `apart`; ``antipodal`` if its |cosine| exceeds that with one row only, and the cosine is below -`opposite`;
    ``confused`` otherwise, as near a triple point.
    """
    norm = W.norm(dim=1)
    if float(norm[-1]) < threshold:
        return "ignored"
    others = unit(W[:-1][norm[:-1] >= threshold])
    cosine = others @ unit(W[-1:])[0]
    overlapping = cosine[cosine.abs() > apart]
    if len(overlapping) == 0:
        return "dedicated"
    return "antipodal" if len(overlapping) == 1 and float(overlapping[0]) < -opposite else "confused"
