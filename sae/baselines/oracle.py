"""The true directions: the ceiling, with an encoder that is not the limit (``fista``) or with one layer (``relu``)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field

from sae.dictionaries.relu import Relu
from sae.dictionary import Dictionary
from sae.encoders.fista import Fista
from sae.method import MethodConfig, training_rows
from sae.source import Source


class Config(MethodConfig):
    """Settings. `l1` and `threshold` of the non-negative lasso are in units of the mean activation norm."""

    kind: Literal["oracle"] = "oracle"
    encoder: Literal["fista", "relu"] = "fista"
    l1: float = Field(0.01, ge=0)
    threshold: float = Field(0.03, ge=0)
    n_iterations: int = Field(200, gt=0)

    needs: ClassVar[frozenset[str]] = frozenset({"truth"})
    seeded: ClassVar[bool] = False

    def fit(self, source: Source, seed: int) -> Dictionary:
        truth = source.truth
        assert truth is not None
        directions = truth.directions[truth.represented]
        offset = torch.zeros(source.d_in) if truth.offset is None else truth.offset
        if self.encoder == "relu":
            return Relu.tied(directions, offset)
        norm = float((training_rows(source, 4096, seed) - offset).norm(dim=-1).mean())
        return Fista.over(directions, offset, self.l1 * norm, self.n_iterations, self.threshold * norm)
