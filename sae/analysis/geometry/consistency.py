"""Whether training again gives the same dictionary: directions of one seed against those of another.

    pw_mcc = mean over pairs of dictionaries of  mean_i cos(W_dec[i], W'_dec[partner(i)])

with partners by the one-to-one assignment of the largest sum of signed cosines, over the smaller side. Song et al.
2025, 'Mechanistic interpretability should prioritize feature consistency', use |cos|. It needs no truth. It is no proof
of validity: two runs may agree on what is wrong, and agreement rises where many latents stand for few directions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import torch
from jaxtyping import Float
from torch import Tensor

from sae.numerics.matching import cosines, one_to_one

_LARGEST = 5000
"""Latents up to which pairs are matched: beyond, a pair takes minutes."""


def pairwise_mcc(directions: Sequence[Float[Tensor, "_ d_in"]]) -> float:
    """`pw_mcc` of at least two dictionaries' decoder rows; NaN for fewer, and beyond `_LARGEST` latents."""
    if len(directions) < 2 or max(map(len, directions)) > _LARGEST:
        return math.nan
    return math.fsum(agreement(a, b) for a, b in combinations(directions, 2)) / math.comb(len(directions), 2)


def agreement(a: Float[Tensor, "n d_in"], b: Float[Tensor, "m d_in"]) -> float:
    """Of two dictionaries."""
    cosine = cosines(a, b)
    partner = one_to_one(cosine)
    has = (partner >= 0).nonzero()[:, 0]
    return float(cosine[has, partner[has]].sum(dtype=torch.float64)) / min(cosine.shape)
