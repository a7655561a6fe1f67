"""What it costs to read a row, and what it has cost to get there.

    encoder_cost   multiply-adds of the encoder, over the ``d_in * n_latents`` of one layer
    train_rows     different training rows that were looked at
    train_samples  training rows that were worked on, counting every repeat
    train_flops    floating point operations: twice the multiply-adds of the dense products

Numbers of the settings, not measured times: for an encoder that stops when a row has converged it is what a row may
cost at most. So they are the same on every machine. The last three are what the dictionary's card says was spent
(:mod:`sae.numerics.fit_cost`), NaN where it says nothing.
"""

from __future__ import annotations

import math
from typing import Literal

from sae.metric import Case, MetricConfig, Scores
from sae.numerics.fit_cost import FitCost


class Config(MetricConfig):
    """Needs nothing."""

    kind: Literal["cost"] = "cost"

    def score(self, case: Case) -> Scores:
        d = case.dictionary
        spent = FitCost.of(d.card)
        rows, samples, flops = (math.nan,) * 3 if spent is None else map(float, (*spent[:2], 2 * spent.multiply_adds))
        return Scores(
            {
                "encoder_cost": d.multiply_adds() / (d.d_in * d.n_latents),
                "train_rows": rows,
                "train_samples": samples,
                "train_flops": flops,
            }
        )
