"""Smuggling past SoLU: the share of a layer's output that comes from small activations, before and after the LayerNorm.

    SoLU(x) = x softmax(x),    y = LayerNorm(SoLU(x))

The softmax suppresses all but the largest neurons at a position, which discourages superposition; the LayerNorm after
it scales the activations up again, so that features may be 'smuggled' through in many small activations (Elhage et al.
2022, 'Softmax Linear Units', section on superposition). For activations a before the norm and y after it,

    s(v) = sum of w_i^2 v_ti^2 over small entries (t, i) / sum over all,    |a_ti| < small * max_t |a_ti|,

with v each neuron's deviation from its mean (a constant carries no information), and w_i the norm of neuron i's output
weights (1 by default). `before` is s(a), `after` s(y), and `rise` their difference: what the norm adds to the small
entries, 0 without a norm. The control, `chance`, permutes which entries are small over samples: the share if the norm
had undone the softmax altogether. The measure is ours; the paper shows the effect on single neurons.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sae.numerics.seeds import derive, generator
from sae.numerics.statistics import Interval, of_draws
from sae.registry import UserError


def solu(x: Float[Tensor, "*rows n_units"]) -> Float[Tensor, "*rows n_units"]:
    """``x softmax(x)`` over the last axis."""
    return x * x.softmax(-1)


@dataclass(frozen=True)
class Smuggling:
    """The share of the output's variance that comes from small activations; intervals of the bootstrap over samples."""

    before: Interval
    """The share before the norm."""
    after: Interval
    """The share after the norm."""
    rise: Interval
    """`after` minus `before`."""
    chance: Interval
    """`after` with small entries permuted over samples; the interval is over permutations."""
    n_small: float
    """The share (not the number) of entries that are small."""


@torch.no_grad()
def smuggling(
    before: Float[Tensor, "rows n_units"],
    after: Float[Tensor, "rows n_units"],
    write: Float[Tensor, " n_units"] | None = None,
    small: float = 0.1,
    draws: int = 500,
    seed: int = 0,
) -> Smuggling:
    """The shares for activations before and after the norm on the same samples; pass a few thousand, held in memory.

    `write` is the norm of each neuron's output weights. Raises `UserError` if the activations do not vary.
    """
    is_small = before.abs() < small * before.abs().amax(0)
    weight = torch.ones_like(before[0]) if write is None else write.to(before)
    power = [((v - v.mean(0)) * weight).square() for v in (before, after)]
    sums = torch.stack([part for v in power for part in ((v * is_small).sum(1), v.sum(1))]).double().cpu().numpy()
    if not (sums.sum(1)[[1, 3]] > 0).all():
        raise UserError("before, after: the activations do not vary over samples; pass activations that do")
    shares = np.stack([_ratios(sums), *(_ratios(sums[:, rows]) for rows in _resampled(sums.shape[1], draws, seed))])
    draw = generator("smuggling", seed)
    chance = [
        float(
            (power[1] * is_small[torch.randperm(len(before), generator=draw).to(is_small.device)]).sum()
            / power[1].sum()
        )
        for _ in range(20)
    ]
    low, high = np.quantile(shares[1:], [0.025, 0.975], axis=0)
    measured = [Interval(float(v), float(a), float(b)) for v, a, b in zip(shares[0], low, high, strict=True)]
    return Smuggling(measured[0], measured[1], measured[2], of_draws(chance), float(is_small.float().mean()))


def _ratios(sums: np.ndarray) -> np.ndarray:
    """The shares before and after the norm, and the rise."""
    small_before, all_before, small_after, all_after = sums.sum(1)
    before, after = small_before / all_before, small_after / all_after
    return np.array([before, after, after - before])


def _resampled(n: int, draws: int, seed: int) -> list[np.ndarray]:
    draw = np.random.default_rng(derive("smuggling", seed))
    return [draw.integers(n, size=n) for _ in range(draws)]
