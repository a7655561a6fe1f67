"""Errors by the number of features that are active at once.

Features in superposition interfere in two ways. A single active feature leaks into the outputs of others, which a bias
can correct; two active features add up to a vector that is neither, which nothing can correct (Elhage et al. 2022, 'Toy
Models of Superposition', on interference). Means over samples with exactly k active features separate the two.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae.sources.network import Hidden


class Stratum(NamedTuple):
    """The samples with one number of active features."""

    n_active: int
    """The number of active features."""
    n_rows: int
    """The number of samples."""
    mean: float
    """The mean of the quantity."""
    half: float
    """Half the width of its 95% interval."""


def mean_by_active(
    values: Float[Tensor, " batch"], n_active: Int[Tensor, " batch"], least_rows: int = 30
) -> list[Stratum]:
    """The mean of `values` for each number of active features that at least `least_rows` samples have."""
    strata: list[Stratum] = []
    for k in n_active.unique().tolist():
        group = values[n_active == k].double()
        if len(group) >= max(least_rows, 2):
            half = 1.96 * float(group.std()) / math.sqrt(len(group))
            strata.append(Stratum(k, len(group), float(group.mean()), half))
    return strata


@torch.no_grad()
def network_losses(source: Hidden, size: int) -> tuple[Float[Tensor, " size"], Int[Tensor, " size"]]:
    """The network's loss on each of `size` held-out samples (their mean is its training loss), and the number of active
    features of each."""
    x = source.inputs.rows(0, size, "test")
    y, population = source.network(x[None]).output[0], source.config.population()
    target = population.task.target(x)
    if population.task.loss == "cross_entropy":
        losses = -(target * y.log_softmax(-1)).sum(-1)
    else:
        losses = ((y - target).square() * population.importance[source.index]).mean(-1)
    return losses, (x != 0).sum(1)
