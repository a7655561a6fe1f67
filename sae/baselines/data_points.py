"""Data points as directions: what a dictionary knows that has seen the data and learned nothing."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sae.dictionaries.relu import Relu
from sae.method import MethodConfig, training_rows
from sae.source import Source


class Config(MethodConfig):
    """Settings; `n_latents` training rows, each scaled to norm one."""

    kind: Literal["data_points"] = "data_points"
    n_latents: int = Field(gt=0)

    def fit(self, source: Source, seed: int) -> Relu:
        rows = training_rows(source, self.n_latents, seed)
        if len(rows) < self.n_latents:
            raise ValueError(f"data_points: n_latents = {self.n_latents}, but the source has {len(rows)} rows")
        return Relu.tied(rows / rows.norm(dim=-1, keepdim=True).clamp_min(1e-12))
