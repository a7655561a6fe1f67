"""Whether latents that fire together keep out of each other's way.

Of pairs of latents i < j, with f_i the share of rows in which i fires and c_ij that in which both do,

    together   c_ij >= 2 f_i f_j,  in at least `least` rows
    apart      c_ij <= f_i f_j / 2,  where at least `least` rows were expected

and the means of |cos(W_dec[i], W_dec[j])| over both kinds. In superposition features that are active at once disturb
each other, so they should be nearer to right angles than those that never meet (Elhage et al. 2022, 'Toy Models of
Superposition', on correlated features): `difference`, together less apart, below 0. Above 0 means that latents which
fire together are alike, as those are that split or share a feature.

Intervals are of the bootstrap over latents (pairs of one latent are not independent). Two controls for the difference:
`permuted`, the latents' directions dealt anew to their firings; and `matched_gaussian`, directions ~ N(0, covariance
of the
activations) with the same firings.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae.analysis.geometry.moments import matched_gaussian
from sae.numerics.matching import unit
from sae.numerics.seeds import derive, generator
from sae.numerics.statistics import Interval, of_draws


class Firings:
    """How often latents fire, alone and in pairs, from batches of codes that are added in turn. Memory is of
    ``n_latents^2`` numbers: keep to a few thousand latents."""

    def __init__(self, n_latents: int, device: str | torch.device = "cpu") -> None:
        self.n_rows = 0
        self.both = torch.zeros(n_latents, n_latents, device=device)

    def add(self, codes: Float[Tensor, "rows n_latents"]) -> None:
        """Takes in the codes of some rows."""
        fires = (codes > 0).float()
        self.n_rows += len(codes)
        self.both += fires.T @ fires


@dataclass(frozen=True)
class Company:
    """Mean |cos| of pairs that fire together and of pairs that keep apart, with their difference and its two controls;
    how many pairs there are of either kind."""

    together: Interval
    apart: Interval
    difference: Interval
    permuted: Interval
    matched: Interval
    n_together: int
    n_apart: int


def company(
    W_dec: Float[Tensor, "n_latents d"],
    firings: Firings,
    covariance: Float[Tensor, "d d"],
    least: int = 10,
    draws: int = 200,
    seed: int = 0,
) -> Company:
    """Of decoder rows and the firings of their latents. NaN where there are no pairs of a kind."""
    rows, both = W_dec.detach().float(), firings.both.to(W_dec.device)
    rate = both.diagonal() / firings.n_rows
    expected = torch.outer(rate, rate) * firings.n_rows
    upper = torch.ones_like(both, dtype=torch.bool).triu(1)
    together = upper & (both >= 2 * expected) & (both >= least)
    apart = upper & (both <= expected / 2) & (expected >= least)
    cosine = (unit(rows) @ unit(rows).T).abs()
    draw = np.random.default_rng(derive("company", seed))
    n = len(rows)
    drawn = [torch.from_numpy(draw.multinomial(n, np.full(n, 1 / n))).to(rows) for _ in range(draws)]
    sampled = torch.stack(
        [torch.stack([_mean(cosine, kind, weight) for kind in (together, apart)]) for weight in drawn]
    )
    own = torch.stack([_mean(cosine, kind) for kind in (together, apart)])

    def difference(other: Tensor) -> float:
        return float(_mean(other, together) - _mean(other, apart))

    order = generator("company", seed)
    dealt = [torch.randperm(n, generator=order).to(rows.device) for _ in range(draws)]
    permuted = [difference(cosine[o][:, o]) for o in dealt]
    null = (unit(random.to(rows)) for random in matched_gaussian(covariance, n, seed, min(draws, 20)))
    return Company(
        _bootstrapped(own[0], sampled[:, 0]),
        _bootstrapped(own[1], sampled[:, 1]),
        _bootstrapped(own[0] - own[1], sampled[:, 0] - sampled[:, 1]),
        of_draws(permuted),
        of_draws([difference((x @ x.T).abs()) for x in null]),
        int(together.sum()),
        int(apart.sum()),
    )


def _mean(cosine: Float[Tensor, "n n"], pairs: Bool[Tensor, "n n"], weight: Tensor | None = None) -> Float[Tensor, ""]:
    """Over some pairs; where latents are drawn several times, their pairs are too."""
    if weight is None:
        return cosine[pairs].mean()
    weighted = pairs * torch.outer(weight, weight)
    return (cosine * weighted).sum() / weighted.sum()


def _bootstrapped(value: Float[Tensor, ""], draws: Float[Tensor, " draws"]) -> Interval:
    found = of_draws(draws.tolist())
    return Interval(float(value), found.low, found.high)
