"""Consistency over seeds: whether training again gives the same decoder directions.

    pw_mcc = mean over pairs of dictionaries of  mean_i cos(W_dec[i], W'_dec[partner(i)])

with partners from the one-to-one assignment that maximises the sum of signed cosines; the inner mean is over the
smaller dictionary. Song et al. 2025, 'Mechanistic interpretability should prioritize feature consistency', use |cos|.
No true features are needed. Agreement does not prove validity: two runs may agree on wrong directions, and agreement
rises if many latents represent few directions.
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
"""The most latents for which pairs are matched: above, one pair takes minutes."""


def pairwise_mcc(directions: Sequence[Float[Tensor, "_ d_in"]]) -> float:
    """`pw_mcc` of the decoder rows of two dictionaries or more; NaN for fewer, and above `_LARGEST` latents."""
    if len(directions) < 2 or max(map(len, directions)) > _LARGEST:
        return math.nan
    return math.fsum(agreement(a, b) for a, b in combinations(directions, 2)) / math.comb(len(directions), 2)


def agreement(a: Float[Tensor, "n d_in"], b: Float[Tensor, "m d_in"]) -> float:
    """The mean matched cosine of two dictionaries' decoder rows."""
    cosine = cosines(a, b)
    partner = one_to_one(cosine)
    has = (partner >= 0).nonzero()[:, 0]
    return float(cosine[has, partner[has]].sum(dtype=torch.float64)) / min(cosine.shape)
