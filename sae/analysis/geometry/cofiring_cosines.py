"""Cosines between decoder rows of latents that fire together and of latents that do not.

For pairs of latents i < j, with f_i the share of samples in which i fires and c_ij the share in which both fire,

    together   c_ij >= 2 f_i f_j,  in at least `least` samples
    apart      c_ij <= f_i f_j / 2,  with at least `least` samples expected

and the means of |cos(W_dec[i], W_dec[j])| over both kinds. In superposition, features that are active together
interfere, so they should be closer to orthogonal than features that are not (Elhage et al. 2022, 'Toy Models of
Superposition', on correlated features): `difference`, together minus apart, is then below 0. A difference above 0 means
that latents which fire together have similar directions, as when they split or share a feature.

Intervals are of the bootstrap over latents (pairs that share a latent are not independent). The difference has two
controls: `permuted` permutes the directions over the latents; `matched` draws directions ~ N(0, covariance of the
activations). Both keep the firings.
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


class FiringCounts:
    """Counts how often latents fire, alone and in pairs, from batches of codes.

    Memory is ``n_latents^2`` numbers: keep to a few thousand latents.
    """

    def __init__(self, n_latents: int, device: str | torch.device = "cpu") -> None:
        self.n_rows = 0
        self.both = torch.zeros(n_latents, n_latents, device=device)

    def add(self, codes: Float[Tensor, "rows n_latents"]) -> None:
        """Adds a batch of codes to the counts."""
        fires = (codes > 0).float()
        self.n_rows += len(codes)
        self.both += fires.T @ fires


@dataclass(frozen=True)
class CofiringCosines:
    """Mean |cos| between decoder rows of pairs that fire together and of pairs that do not."""

    together: Interval
    """Mean |cos| of pairs that fire together."""
    apart: Interval
    """Mean |cos| of pairs that do not."""
    difference: Interval
    """`together` minus `apart`."""
    permuted: Interval
    """`difference` with directions permuted over the latents."""
    matched: Interval
    """`difference` with random directions of the activations' covariance."""
    n_together: int
    """The number of pairs that fire together."""
    n_apart: int
    """The number of pairs that do not."""


def cofiring_cosines(
    W_dec: Float[Tensor, "n_latents d"],
    firings: FiringCounts,
    covariance: Float[Tensor, "d d"],
    least: int = 10,
    draws: int = 200,
    seed: int = 0,
) -> CofiringCosines:
    """Compares decoder rows by how their latents fire; NaN if there are no pairs of one kind.

    `covariance` is that of the activations, for the control `matched`.
    """
    rows, both = W_dec.detach().float(), firings.both.to(W_dec.device)
    rate = both.diagonal() / firings.n_rows
    expected = torch.outer(rate, rate) * firings.n_rows
    upper = torch.ones_like(both, dtype=torch.bool).triu(1)
    together = upper & (both >= 2 * expected) & (both >= least)
    apart = upper & (both <= expected / 2) & (expected >= least)
    cosine = (unit(rows) @ unit(rows).T).abs()
    draw = np.random.default_rng(derive("company", seed))
    n = len(rows)
    weights = [torch.from_numpy(draw.multinomial(n, np.full(n, 1 / n))).to(rows) for _ in range(draws)]
    sampled = torch.stack(
        [torch.stack([_mean(cosine, kind, weight) for kind in (together, apart)]) for weight in weights]
    )
    value = torch.stack([_mean(cosine, kind) for kind in (together, apart)])

    def difference(other: Tensor) -> float:
        return float(_mean(other, together) - _mean(other, apart))

    order = generator("company", seed)
    orders = [torch.randperm(n, generator=order).to(rows.device) for _ in range(draws)]
    permuted = [difference(cosine[o][:, o]) for o in orders]
    null = (unit(random.to(rows)) for random in matched_gaussian(covariance, n, seed, min(draws, 20)))
    return CofiringCosines(
        _bootstrapped(value[0], sampled[:, 0]),
        _bootstrapped(value[1], sampled[:, 1]),
        _bootstrapped(value[0] - value[1], sampled[:, 0] - sampled[:, 1]),
        of_draws(permuted),
        of_draws([difference((x @ x.T).abs()) for x in null]),
        int(together.sum()),
        int(apart.sum()),
    )


def _mean(cosine: Float[Tensor, "n n"], pairs: Bool[Tensor, "n n"], weight: Tensor | None = None) -> Float[Tensor, ""]:
    """The mean over the given pairs; a pair counts as often as both of its latents are drawn (`weight`)."""
    if weight is None:
        return cosine[pairs].mean()
    weighted = pairs * torch.outer(weight, weight)
    return (cosine * weighted).sum() / weighted.sum()


def _bootstrapped(value: Float[Tensor, ""], draws: Float[Tensor, " draws"]) -> Interval:
    interval = of_draws(draws.tolist())
    return Interval(float(value), interval.low, interval.high)
