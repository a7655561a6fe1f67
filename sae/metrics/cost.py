"""What it costs to read a row.

    encoder_cost  multiply-adds of the encoder, over the ``d_in * n_latents`` of one layer

A number of the settings, not a measured time: for an encoder that stops when a row has converged it is what a row may
cost at most. So it is the same on every machine.
"""

from __future__ import annotations

from typing import Literal

from sae.metric import Case, MetricConfig, Scores


class Config(MetricConfig):
    """Needs nothing."""

    kind: Literal["cost"] = "cost"

    def score(self, case: Case) -> Scores:
        d = case.dictionary
        return Scores({"encoder_cost": d.multiply_adds() / (d.d_in * d.n_latents)})
