"""What a dictionary that has learned nothing would give to a probe."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sae.dictionaries.relu import Relu
from sae.dictionary import Dictionary
from sae.metric import encode
from sae.numerics.seeds import generator
from sae.toys.base import random_directions


def untrained(d: Dictionary, acts: Float[Tensor, "rows d_in"], seed: int) -> Relu:
    """Random unit directions of the shape of `d`, each with the threshold at which it fires in as large a share of the
    rows as the latents of `d` do on average, so that both have the same l0 there; no label is looked at."""
    with torch.no_grad():
        density = float((encode(d, acts) > 0).double().mean())
        directions = random_directions(d.n_latents, d.d_in, generator("untrained", seed)).to(acts)
        middle = acts.mean(0)
        return Relu(directions.T.contiguous(), directions, -thresholds((acts - middle) @ directions.T, density), middle)


def thresholds(projected: Float[Tensor, "rows n_latents"], density: float) -> Float[Tensor, " n_latents"]:
    """What ``round(density rows)`` rows of each column are above."""
    n_above = round(density * len(projected))
    falling = projected.sort(dim=0, descending=True).values
    if n_above == 0:
        return falling[0] + 1
    if n_above == len(projected):
        return falling[-1] - 1
    return (falling[n_above - 1] + falling[n_above]) / 2
