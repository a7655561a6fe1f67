"""Errors by the number of features that are active at once.

Features that share a polytope disturb each other in two ways. A feature alone leaks into the others' outputs, which a
bias can take away; two at once add up to something that is neither, which nothing can (Elhage et al. 2022, 'Toy Models
of Superposition', on interference). The mean over rows with exactly k active features keeps the two apart.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae.sources.network import Hidden


class Stratum(NamedTuple):
    """The rows with `n_active` active features: how many, and the mean of a quantity with half its 95% interval."""

    n_active: int
    n_rows: int
    mean: float
    half: float


def mean_by_active(
    values: Float[Tensor, " batch"], n_active: Int[Tensor, " batch"], least_rows: int = 30
) -> list[Stratum]:
    """The mean of `values` over the rows of each number of active features that has at least `least_rows`."""
    found: list[Stratum] = []
    for k in n_active.unique().tolist():
        of = values[n_active == k].double()
        if len(of) >= max(least_rows, 2):
            found.append(Stratum(k, len(of), float(of.mean()), 1.96 * float(of.std()) / math.sqrt(len(of))))
    return found


@torch.no_grad()
def network_losses(source: Hidden, size: int) -> tuple[Float[Tensor, " size"], Int[Tensor, " size"]]:
    """The source's network's own loss on each of `size` held-out rows, whose mean is the loss it was trained on, and
    how many features are active in each."""
    x = source.inputs.rows(0, size, "test")
    y, population = source.network(x[None]).output[0], source.config.population()
    wanted = population.task.target(x)
    if population.task.loss == "cross_entropy":
        losses = -(wanted * y.log_softmax(-1)).sum(-1)
    else:
        losses = ((y - wanted).square() * population.importance[source.index]).mean(-1)
    return losses, (x != 0).sum(1)
