"""How crowded a table of vectors is: token embeddings, or the rows of any matrix.

    mean_cosine     mean over pairs i < j of |cos(w_i, w_j)|; sqrt(2 / (pi d)) for directions drawn at random
    nearest         mean over rows of max_j |cos(w_i, w_j)|, see :mod:`sae.analysis.geometry.geometry`
    largest         max over rows of the same
    effective_rank  exp(-sum_k p_k ln p_k), with p_k the share of the k-th singular value in their sum, of the centred
                    rows (Roy and Vetterli 2007, 'The effective rank')
    dimensions      (sum_k l_k)^2 / sum_k l_k^2, the participation ratio of the eigenvalues of the covariance

Intervals of the first two are of the bootstrap over rows (over rows' means: a pair counts for both of its rows). The
controls are Gaussian rows, and Gaussian rows with the mean and covariance of the table: an excess over the second is
not explained by the few directions of large variance that all tables have.
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
    """Measures of one table, or of a control with intervals over its draws."""

    mean_cosine: Interval
    """Mean |cos| over all pairs of rows."""
    nearest: Interval
    """Mean over rows of the largest |cos| with any other row."""
    largest: Interval
    """Largest |cos| of any pair."""
    effective_rank: Interval
    """Exponential of the entropy of the normalised singular values."""
    dimensions: Interval
    """Participation ratio of the eigenvalues of the covariance."""


@dataclass(frozen=True)
class CrowdingWithControls:
    """Measures of a table and of its two controls."""

    rows: Crowding
    """The table itself."""
    random: Crowding
    """Standard Gaussian rows."""
    matched: Crowding
    """Gaussian rows with the table's mean and covariance."""


def crowding(rows: Float[Tensor, "n d"], draws: int = 3, seed: int = 0) -> CrowdingWithControls:
    """Measures a table and its controls; rows of zeros are ignored. Time is that of ``n^2 d`` products, ``1 + 2 draws``
    times. Raises `UserError` if fewer than two rows are not zero."""
    rows = rows[rows.norm(dim=1) > 0].detach().float()
    if len(rows) < 2:
        raise UserError("rows: fewer than two are not zero; give at least two rows to compare")
    mean, covariance = rows.mean(0), torch.cov(rows.double().T, correction=0)
    draw = generator("crowding", seed)
    random = [torch.randn(rows.shape, generator=draw).to(rows) for _ in range(draws)]
    matched = [x.to(rows) + mean for x in matched_gaussian(covariance, len(rows), seed, draws)]
    per_row = _mean_and_nearest(rows)
    table = Crowding(
        *(Interval(float(v.mean()), *bootstrap(v.double().cpu().numpy(), derive("crowding", seed))) for v in per_row),
        *(Interval(v, v, v) for v in (float(per_row[1].max()), *_ranks(rows))),
    )
    return CrowdingWithControls(table, _over_draws(random), _over_draws(matched))


def _mean_and_nearest(rows: Float[Tensor, "n d"]) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """For each row, the mean and the largest |cos| with all others."""
    directions = unit(rows)
    total = [(piece @ directions.T).abs().sum(1) for piece in directions.split(GEOMETRY_ROWS_AT_ONCE)]
    return (torch.cat(total) - 1) / (len(rows) - 1), nearest_cosine(rows)


def _ranks(rows: Float[Tensor, "n d"]) -> tuple[float, float]:
    """Effective rank and dimensions."""
    variance = torch.linalg.eigvalsh(torch.cov(rows.double().T, correction=0)).clamp(min=0)
    p = variance.sqrt() / variance.sqrt().sum()
    entropy = -(p * p.clamp(min=1e-300).log()).sum()
    return float(entropy.exp()), float(variance.sum().square() / variance.square().sum())


def _over_draws(tables: list[Tensor]) -> Crowding:
    """The measures of a control, with intervals over its draws."""
    measures: list[tuple[float, ...]] = []
    for rows in tables:
        mean, nearest = _mean_and_nearest(rows)
        measures.append((float(mean.mean()), float(nearest.mean()), float(nearest.max()), *_ranks(rows)))
    return Crowding(*(of_draws(list(values)) for values in zip(*measures, strict=True)))
