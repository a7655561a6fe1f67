"""How much the decoder directions of alive latents overlap.

    decoder_cosine = mean over pairs i < j of alive latents of |cos(W_dec[i], W_dec[j])|

In [0, 1]; 0 for orthogonal directions. It is c_dec of Chanin and Garriga-Alonso 2025, 'Sparse but wrong': with an L0
below the true one a dictionary merges correlated features into one latent, with an L0 above it latents mix in other
features. Both make the directions overlap, so over a sweep of L0 the score is lowest near the true L0
(`sae suggest` estimates that minimum). It is of little use to compare dictionaries of different widths, architectures
or sources.

Published variant: c_dec averages over all latents; this score averages over alive ones, which fire on a test sample
and have a non-zero decoder row. Dead latents were never trained, and their random directions hide the minimum. Above
32,768 alive latents, the pairs are those of as many drawn at random. Chance: random directions in d_in dimensions score
sqrt(2 / (pi d_in)). NaN with fewer than two alive latents.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae.metric import Case, MetricConfig, Scores
from sae.metrics._code_sums import code_sums
from sae.numerics.matching import unit
from sae.numerics.seeds import Permutation, derive

_ROWS_AT_ONCE = 1024
MOST_COMPARED = 2**15
"""The largest number of rows of which all pairs are compared."""


class Config(MetricConfig):
    """Settings of the overlap score; needs only activations, which determine the alive latents."""

    kind: Literal["coherence"] = "coherence"

    def score(self, case: Case) -> Scores:
        alive = code_sums(case).firings > 0
        return Scores({"decoder_cosine": decoder_cosine(case.dictionary.W_dec, alive)})


def decoder_cosine(W_dec: Float[Tensor, "n_latents d_in"], alive: Bool[Tensor, " n_latents"] | None = None) -> float:
    """Mean |cosine| over pairs of non-zero decoder rows, of the `alive` latents if given; NaN without a pair."""
    rows = W_dec if alive is None else W_dec[alive]
    rows = rows[rows.norm(dim=1) > 0]
    if len(rows) > MOST_COMPARED:
        drawn = Permutation(len(rows), derive("decoder cosine"))(np.arange(MOST_COMPARED))
        rows = rows[torch.from_numpy(drawn).to(rows.device)]
    rows = unit(rows.float())
    n = len(rows)
    if n < 2:
        return math.nan
    total = torch.zeros((), dtype=torch.float64, device=rows.device)
    for start in range(0, n, _ROWS_AT_ONCE):
        between = (rows[start : start + _ROWS_AT_ONCE] @ rows.T).abs()
        total += between.triu(start + 1).sum(dtype=torch.float64)
    return float(total) / (n * (n - 1) / 2)
