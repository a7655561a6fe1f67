"""Data points as directions: a control that has seen the data and learned nothing."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sae.baseline import BaselineConfig, training_rows
from sae.dictionaries.relu import Relu
from sae.numerics.fit_cost import FitCost
from sae.registry import UserError
from sae.source import Source

OVERSAMPLING = 8
"""Samples drawn per latent: in sparse toy data many samples are zero, because no feature is active."""


class Config(BaselineConfig):
    """Takes `n_latents` non-zero training samples, each scaled to norm one, as the directions of a tied ReLU
    dictionary.

    Fitting raises `UserError` where the source has too few non-zero samples.
    """

    kind: Literal["data_points"] = "data_points"
    n_latents: int = Field(gt=0)
    """Number of directions."""

    def fit(self, source: Source, seed: int) -> Relu:
        rows = training_rows(source, OVERSAMPLING * self.n_latents, seed)
        norm = rows.norm(dim=-1, keepdim=True)
        points = (rows / norm)[norm[:, 0] > 0][: self.n_latents]
        if len(points) < self.n_latents:
            raise UserError(
                f"data_points: n_latents = {self.n_latents}: the source has only {len(points)} samples that are not "
                "zero; lower n_latents"
            )
        return Relu.tied(points).with_card(**FitCost(len(rows), len(rows), rows.numel()).card_entry())
