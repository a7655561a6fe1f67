"""What it costs to encode a sample, and what training has cost.

    encoder_cost   multiply-adds of encoding one sample, divided by d_in * n_latents; 1 for a one-layer encoder,
                   lower is cheaper
    train_rows     number of different training samples
    train_samples  number of training samples processed, counting repeats
    train_flops    floating point operations of training: twice the multiply-adds of the dense products

All are computed from settings, not measured, so they are the same on every machine. For an encoder that stops when a
sample has converged, encoder_cost is an upper bound. The last three are read from the dictionary's card and are NaN
where it does not record them.
"""

from __future__ import annotations

import math
from typing import Literal

from sae.metric import Case, MetricConfig, Scores
from sae.numerics.fit_cost import FitCost


class Config(MetricConfig):
    """Settings of the cost scores; needs nothing."""

    kind: Literal["cost"] = "cost"

    def score(self, case: Case) -> Scores:
        d = case.dictionary
        fit = FitCost.of(d.card)
        rows, samples, flops = (math.nan,) * 3 if fit is None else map(float, (*fit[:2], 2 * fit.multiply_adds))
        return Scores(
            {
                "encoder_cost": d.multiply_adds() / (d.d_in * d.n_latents),
                "train_rows": rows,
                "train_samples": samples,
                "train_flops": flops,
            }
        )
