"""An untrained dictionary as a control for probes on codes."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sae.dictionaries.relu import Relu
from sae.dictionary import Dictionary
from sae.metric import BLOCK_BYTES, block_rows
from sae.numerics.seeds import generator
from sae.toys.base import random_directions


def untrained(d: Dictionary, acts: Float[Tensor, "rows d_in"], seed: int) -> Relu:
    """A dictionary of the shape of `d` with random unit directions. Each has the threshold at which it fires in the
    same share of `acts` as the latents of `d` on average, so that both have the same L0 there; no labels are used."""
    with torch.no_grad():
        size = block_rows(d.n_latents)
        n_active = sum(int((d.encode(piece) > 0).sum()) for piece in acts.split(size))
        density = n_active / (len(acts) * d.n_latents)
        directions = random_directions(d.n_latents, d.d_in, generator("untrained", seed)).to(acts)
        middle = acts.mean(0)
        centred = acts - middle
        pieces = directions.split(max(1, BLOCK_BYTES // (4 * len(acts))))
        threshold = torch.cat([thresholds(centred @ piece.T, density) for piece in pieces])
        return Relu(directions.T.contiguous(), directions, -threshold, middle)


def thresholds(projected: Float[Tensor, "rows n_latents"], density: float) -> Float[Tensor, " n_latents"]:
    """For each column, a threshold below which all but ``round(density rows)`` values lie."""
    n_above = round(density * len(projected))
    descending = projected.sort(dim=0, descending=True).values
    if n_above == 0:
        return descending[0] + 1
    if n_above == len(projected):
        return descending[-1] - 1
    return (descending[n_above - 1] + descending[n_above]) / 2
