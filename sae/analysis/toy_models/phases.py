"""What a toy model should do with its least certain feature, from closed forms, and what a trained one has done.

Features are zero but with probability p, where they are U[0, 1]; the loss is ``sum_i I_i E (x_i - x'_i)^2``. A feature
that is not represented leaves its variance ``p / 3 - p^2 / 4`` at best (a bias at its mean p / 2); of a digon, two
features at W and -W, either loses what the other takes when both are active: ``E min(x_1, x_2)^2 = p^2 / 6``. Elhage et
al. 2022, 'Toy Models of Superposition', phase change; there the plots are of trained models, the losses here are of the
exact configurations.

Two features in one dimension, or three in two; all but the last have importance 1 and the last r:

    ignored     the last is not represented                 r (p / 3 - p^2 / 4)
    dedicated   it has a dimension of its own; of the others
                one is not represented (two features)        p / 3 - p^2 / 4
                two share the other dimension (three),       p^2 / 3
                or one is left out where that is less
    antipodal   it shares a dimension with one other         (1 + r) p^2 / 6

The digon beats the ignored last where ``p < 4 r / (2 + 5 r)`` and, of two features, the ignored first where
``p < 4 / (5 + 2 r)``: at r = 1 both say 4/7. With three features, `dedicated` beats `antipodal` where r > 1.
"""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from sae.numerics.matching import unit
from sae.registry import UserError

Phase = Literal["ignored", "dedicated", "antipodal", "confused"]


def ignored_loss(p: float) -> float:
    """The variance of a feature, ``p / 3 - p^2 / 4``: what is lost of one that is not represented."""
    return p / 3 - p**2 / 4


def linear_optimum(p: float, importance: Float[Tensor, " n"], m: int) -> float:
    """The least loss of a linear model of m dimensions, a mean over features: the m most important are exact, whatever
    their sparsity, and of the others the variance is left, ``(p / 3 - p^2 / 4) sum_{i >= m} I_i / n``."""
    rest = importance.double().sort(descending=True).values[m:]
    return ignored_loss(p) * float(rest.sum()) / len(importance)


def phase_losses(p: float, r: float, n_features: int = 2) -> dict[Phase, float]:
    """The loss of each configuration, a sum over features.

    Raises ``ValueError`` for a p that is no probability, an r that is not above 0, or another number of features.
    """
    if not 0 < p <= 1 or r <= 0 or n_features not in (2, 3):
        raise UserError(f"p = {p:g}, r = {r:g}, n_features = {n_features}: give 0 < p <= 1, r > 0, and 2 or 3")
    dedicated = ignored_loss(p) if n_features == 2 else min(ignored_loss(p), p**2 / 3)
    return {"ignored": r * ignored_loss(p), "dedicated": dedicated, "antipodal": (1 + r) * p**2 / 6}


def predicted(p: float, r: float, n_features: int = 2) -> Phase:
    """The configuration with the least loss."""
    every = phase_losses(p, r, n_features)
    return min(every, key=lambda phase: every[phase])


def antipodal_below(r: float) -> float:
    """The p below which two features share one dimension: ``4 r / (2 + 5 r)`` for r <= 1, ``4 / (5 + 2 r)`` above."""
    return 4 * r / (2 + 5 * r) if r <= 1 else 4 / (5 + 2 * r)


def phase_of(W: Float[Tensor, "n m"], threshold: float = 0.5, opposite: float = 0.8, apart: float = 0.2) -> Phase:
    """What a trained model has done with its last feature.

    ``ignored`` where its norm is below `threshold`; ``dedicated`` where its |cosine| with every other that is
    represented is at most `apart`; ``antipodal`` where it is more with one alone, and below -`opposite`; else
    ``confused``, as where two lie to one side at a blurred triple point.
    """
    norm = W.norm(dim=1)
    if float(norm[-1]) < threshold:
        return "ignored"
    others = unit(W[:-1][norm[:-1] >= threshold])
    cosine = others @ unit(W[-1:])[0]
    company = cosine[cosine.abs() > apart]
    if len(company) == 0:
        return "dedicated"
    return "antipodal" if len(company) == 1 and float(company[0]) < -opposite else "confused"
