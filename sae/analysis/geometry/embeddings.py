"""How crowded a table of vectors is: token embeddings, or any rows.

    mean_cosine     mean over pairs i < j of |cos(w_i, w_j)|; sqrt(2 / (pi d)) for directions drawn at random
    nearest         mean over rows of max_j |cos(w_i, w_j)|; from :mod:`sae.analysis.geometry.geometry`, as is its
    largest
    effective_rank  exp(-sum_k p_k ln p_k), p_k the share of the k-th singular value of all (Roy and Vetterli 2007, 'The
                    effective rank'), of rows less their mean
    dimensions      (sum_k l_k)^2 / sum_k l_k^2, the participation ratio of the eigenvalues of the covariance

Intervals of the first two are of the bootstrap over rows (over rows' means: a pair counts for both of its rows). The
controls are Gaussian rows, and rows ~ N(0, C) with C and the mean those of the table: what exceeds the second is more
than the few loud directions that all tables have.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sae.analysis.geometry.geometry import GEOMETRY_ROWS_AT_ONCE, nearest_cosine
from sae.analysis.geometry.moments import matched_gaussian
from sae.numerics.matching import unit
from sae.numerics.seeds import derive, generator
from sae.numerics.statistics import Interval, bootstrap, of_draws
from sae.registry import UserError


@dataclass(frozen=True)
class Crowding:
    """The measures of a table; those of a control are of its draws."""

    mean_cosine: Interval
    nearest: Interval
    largest: Interval
    effective_rank: Interval
    dimensions: Interval


@dataclass(frozen=True)
class Crowded:
    """A table, and the same measures of Gaussian rows and of rows of its covariance and mean."""

    rows: Crowding
    random: Crowding
    matched: Crowding


def crowding(rows: Float[Tensor, "n d"], draws: int = 3, seed: int = 0) -> Crowded:
    """Of a table of at least two rows with a length. Time is that of ``n^2 d`` products, `draws` times two more for the
    controls."""
    rows = rows[rows.norm(dim=1) > 0].detach().float()
    if len(rows) < 2:
        raise UserError("rows: fewer than two have a length, which leaves nothing to compare")
    mean, covariance = rows.mean(0), torch.cov(rows.double().T, correction=0)
    draw = generator("crowding", seed)
    random = [torch.randn(rows.shape, generator=draw).to(rows) for _ in range(draws)]
    alike = [x.to(rows) + mean for x in matched_gaussian(covariance, len(rows), seed, draws)]
    each = _each(rows)
    own = Crowding(
        *(Interval(float(v.mean()), *bootstrap(v.double().cpu().numpy(), derive("crowding", seed))) for v in each),
        *(Interval(v, v, v) for v in (float(each[1].max()), *_ranks(rows))),
    )
    return Crowded(own, _drawn(random), _drawn(alike))


def _each(rows: Float[Tensor, "n d"]) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Of each row, the mean |cos| with all others and the largest."""
    directions = unit(rows)
    total = [(piece @ directions.T).abs().sum(1) for piece in directions.split(GEOMETRY_ROWS_AT_ONCE)]
    return (torch.cat(total) - 1) / (len(rows) - 1), nearest_cosine(rows)


def _ranks(rows: Float[Tensor, "n d"]) -> tuple[float, float]:
    """Effective rank and dimensions."""
    variance = torch.linalg.eigvalsh(torch.cov(rows.double().T, correction=0)).clamp(min=0)
    p = variance.sqrt() / variance.sqrt().sum()
    entropy = -(p * p.clamp(min=1e-300).log()).sum()
    return float(entropy.exp()), float(variance.sum().square() / variance.square().sum())


def _drawn(tables: list[Tensor]) -> Crowding:
    """The measures of control tables, the interval over their draws."""
    found: list[tuple[float, ...]] = []
    for rows in tables:
        mean, nearest = _each(rows)
        found.append((float(mean.mean()), float(nearest.mean()), float(nearest.max()), *_ranks(rows)))
    return Crowding(*(of_draws(list(values)) for values in zip(*found, strict=True)))
