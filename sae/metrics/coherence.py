"""How far the directions of a dictionary's living latents lean on one another.

    decoder_cosine = mean over pairs i < j of living latents of |cos(W_dec[i], W_dec[j])|

Chanin and Garriga-Alonso 2025, 'Sparse but wrong' (c_dec): allowed fewer latents than there are features active, a
dictionary writes correlated features together; allowed more, it mixes in others to fill its quota. Either way its
directions lean on one another, so that over a sweep of L0 this is least near the truth
(:mod:`sae.analysis.suggestion`). It says little between dictionaries of different widths, architectures or sources.

Theirs is over all latents, ours over the living: those that fire on a test row and whose direction has a length. A dead
latent was never fitted, and its direction is noise that hides the minimum. Random directions in `d_in` dimensions have
``sqrt(2 / (pi d_in))``. Fewer than two living latents have no pair, and NaN.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae.metric import Case, MetricConfig, Scores
from sae.numerics.matching import unit

_ROWS_AT_ONCE = 1024


class Config(MetricConfig):
    """Needs activations alone, to tell which latents live."""

    kind: Literal["coherence"] = "coherence"

    def score(self, case: Case) -> Scores:
        living = torch.stack([piece.any(0) for piece in case.test_codes.split(4 * _ROWS_AT_ONCE)]).any(0)
        return Scores({"decoder_cosine": decoder_cosine(case.dictionary.W_dec, living)})


def decoder_cosine(W_dec: Float[Tensor, "n_latents d_in"], living: Bool[Tensor, " n_latents"] | None = None) -> float:
    """The mean |cosine| over pairs of rows that are `living` (without it: all) and not zero; NaN without a pair."""
    rows = W_dec if living is None else W_dec[living]
    rows = unit(rows[rows.norm(dim=1) > 0].float())
    n = len(rows)
    if n < 2:
        return math.nan
    total = torch.zeros((), dtype=torch.float64, device=rows.device)
    for start in range(0, n, _ROWS_AT_ONCE):
        between = (rows[start : start + _ROWS_AT_ONCE] @ rows.T).abs()
        total += between.triu(start + 1).sum(dtype=torch.float64)
    return float(total) / (n * (n - 1) / 2)
