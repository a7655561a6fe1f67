"""The rate of feature hedging, from a dictionary and a wider one, without known features.

A narrow dictionary W ``[n, d_in]`` is trained further with m new latents, W' ``[n + m, d_in]``. Latents that had mixed
in other features drop the parts that new latents now represent: they move within the span of the new directions. With
unit rows, P the projection on that span and P_0 the projection on the span of as many Gaussian vectors,

    moved     = mean_i ||P (W'_i - W_i)|| / mean_i ||W_i||,    i = 1 ... n
    by_chance = the mean over `n_draws` of the same with P_0
    rate      = (moved - by_chance) / (1 - by_chance)

Chanin et al. 2025, 'Feature hedging: correlated features break narrow sparse autoencoders'; 50 draws, as in their code.
Their code clips the rate at 0; here it may be negative, so that its mean over dictionaries that do not hedge is 0. The
new latents must be fewer than the dimensions: with d_in or more, the span is the whole space and P = P_0.

The rate does not distinguish hedging from other reasons for which old latents move towards new ones; with known
features, the score `hedged` of :mod:`sae.metrics.hedging` does.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sae.dictionary import Dictionary
from sae.numerics.assignment import assign
from sae.numerics.matching import Cosines, unit
from sae.numerics.seeds import generator
from sae.registry import UserError


@dataclass(frozen=True)
class Hedging:
    """The hedging rate and its two components."""

    rate: float
    """``(moved - by_chance) / (1 - by_chance)``; about 0 without hedging."""
    moved: float
    """Mean movement of the old latents within the span of the new ones, relative to their length."""
    by_chance: float
    """The same for the span of as many random directions."""


def hedging_rate(
    narrow: Dictionary, extended: Dictionary, *, matched: bool = True, n_draws: int = 50, seed: int = 0
) -> Hedging:
    """The hedging rate of `narrow`, measured with `extended`.

    By default the first latents of `extended` are those of `narrow` after further training. For an `extended` that was
    trained from scratch, ``matched=False`` pairs latents one to one by their cosines; latents without a partner are
    new.

    Raises `UserError` if the two have different `d_in`, or if `extended` does not have 1 to d_in - 1 more latents.
    """
    n_new = extended.n_latents - narrow.n_latents
    if extended.d_in != narrow.d_in:
        raise UserError(f"extended: d_in is {extended.d_in}, but narrow has {narrow.d_in}; give two of the same d_in")
    if not 0 < n_new < narrow.d_in:
        raise UserError(f"extended: {n_new} latents more than narrow; give one with 1 to {narrow.d_in - 1} more")
    if n_draws < 1:
        raise UserError(f"n_draws = {n_draws}: fewer than 1; give at least 1")
    before, after = (unit(d.W_dec.detach().double().cpu()) for d in (narrow, extended))
    if not matched:
        partner = assign(Cosines(before, after)).column
        new = torch.ones(len(after), dtype=torch.bool).index_fill(0, partner, False)
        after = torch.cat([after[partner], after[new]])
    old, added = after[: len(before)], after[len(before) :]
    length = before.norm(dim=1).mean()
    moved = within(old - before, added) / length
    draw = generator("hedging", seed)
    chance = [within(old - before, torch.randn(added.shape, generator=draw).double()) for _ in range(n_draws)]
    by_chance = torch.stack(chance).mean() / length
    rate = (moved - by_chance) / (1 - by_chance)
    return Hedging(float(rate), float(moved), float(by_chance))


def within(rows: Float[Tensor, "n d_in"], directions: Float[Tensor, "m d_in"]) -> Float[Tensor, ""]:
    """The mean length of the rows' projections on the span of the directions."""
    _, strength, span = torch.linalg.svd(directions, full_matrices=False)
    basis = span[strength > 1e-9 * strength[0].clamp_min(1e-300)]
    return (rows @ basis.T).norm(dim=1).mean()
