"""SoLU and what goes round it: how much of what a layer writes comes from activations that are small.

    SoLU(x) = x softmax(x),    y = LayerNorm(SoLU(x))

The softmax quells all but the largest neurons of a row, which keeps features apart; the LayerNorm behind it scales the
row up again, so that features may be 'smuggled' past it in many small activations (Elhage et al. 2022, 'Softmax Linear
Units', section on superposition). For activations a before the norm and y behind it,

    s(v) = sum of w_i^2 v_ti^2 over small entries (t, i) / sum over all,    |a_ti| < small * max_t |a_ti|,

with v each neuron's deviation from its mean (a constant tells nothing), and w_i how much neuron i writes, 1 where it is
not given. `before` is s(a), `after` s(y), `rise` their difference: what the norm adds to the small. 0 without a norm.
The control, `chance`, has the entries of y permuted over rows for each neuron: the share of the small if the norm
had undone the softmax altogether. Our measure; the paper shows the effect by single neurons.
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
    """``x softmax(x)`` over the neurons of a row."""
    return x * x.softmax(-1)


@dataclass(frozen=True)
class Smuggling:
    """The share of small activations before and behind the norm and the rise, with bootstrap intervals over rows; and
    by chance, with the interval of its draws. `n_small` is the share of entries that are small."""

    before: Interval
    after: Interval
    rise: Interval
    chance: Interval
    n_small: float


@torch.no_grad()
def smuggling(
    before: Float[Tensor, "rows n_units"],
    after: Float[Tensor, "rows n_units"],
    write: Float[Tensor, " n_units"] | None = None,
    small: float = 0.1,
    draws: int = 500,
    seed: int = 0,
) -> Smuggling:
    """Of activations before the norm and behind it on the same rows; rows are to be few thousands, they lie in memory.

    Raises ``ValueError`` where nothing varies.
    """
    is_small = before.abs() < small * before.abs().amax(0)
    weight = torch.ones_like(before[0]) if write is None else write.to(before)
    loud = [((v - v.mean(0)) * weight).square() for v in (before, after)]
    sums = torch.stack([part for v in loud for part in ((v * is_small).sum(1), v.sum(1))]).double().cpu().numpy()
    if not (sums.sum(1)[[1, 3]] > 0).all():
        raise UserError("before, after: the activations do not vary")
    shares = np.stack([_ratios(sums), *(_ratios(sums[:, rows]) for rows in _resampled(sums.shape[1], draws, seed))])
    draw = generator("smuggling", seed)
    chance = [
        float(
            (loud[1] * is_small[torch.randperm(len(before), generator=draw).to(is_small.device)]).sum() / loud[1].sum()
        )
        for _ in range(20)
    ]
    low, high = np.quantile(shares[1:], [0.025, 0.975], axis=0)
    found = [Interval(float(v), float(a), float(b)) for v, a, b in zip(shares[0], low, high, strict=True)]
    return Smuggling(found[0], found[1], found[2], of_draws(chance), float(is_small.float().mean()))


def _ratios(sums: np.ndarray) -> np.ndarray:
    """Before, after, and the rise."""
    small_before, all_before, small_after, all_after = sums.sum(1)
    before, after = small_before / all_before, small_after / all_after
    return np.array([before, after, after - before])


def _resampled(n: int, draws: int, seed: int) -> list[np.ndarray]:
    draw = np.random.default_rng(derive("smuggling", seed))
    return [draw.integers(n, size=n) for _ in range(draws)]
