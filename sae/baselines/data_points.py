"""Data points as directions: what a dictionary knows that has seen the data and learned nothing."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sae.baseline import BaselineConfig, training_rows
from sae.dictionaries.relu import Relu
from sae.numerics.fit_cost import FitCost
from sae.registry import UserError
from sae.source import Source

SPARE = 8
"""Rows looked at for every one that is needed: sparse toy data have rows in which nothing is active."""


class Config(BaselineConfig):
    """Settings; `n_latents` training rows other than zero, each scaled to norm one."""

    kind: Literal["data_points"] = "data_points"
    n_latents: int = Field(gt=0)

    def fit(self, source: Source, seed: int) -> Relu:
        rows = training_rows(source, SPARE * self.n_latents, seed)
        norm = rows.norm(dim=-1, keepdim=True)
        points = (rows / norm)[norm[:, 0] > 0][: self.n_latents]
        if len(points) < self.n_latents:
            raise UserError(
                f"data_points: n_latents = {self.n_latents}, but the source has {len(points)} rows other than zero; "
                "ask for fewer"
            )
        return Relu.tied(points).with_card(**FitCost(len(rows), len(rows), rows.numel()).card_entry())
