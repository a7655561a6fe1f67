"""The true directions as a dictionary: the ceiling, with one of four encoders.

fista      non-negative lasso codes
stagewise  least squares on a support that tests against chance find: the ceiling where the encoder is not the limit
threshold  one layer fitted to those codes: the ceiling of one-layer encoders (sae/encoders/threshold.py)
relu       the projections themselves, which are positive wherever features interfere
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field

from sae.baseline import BaselineConfig, training_rows
from sae.dictionaries.relu import Relu
from sae.dictionary import Dictionary
from sae.encoders.fista import Fista
from sae.numerics.fit_cost import FitCost
from sae.source import Source


class Config(BaselineConfig):
    """The true directions of a source that has truth."""

    kind: Literal["oracle"] = "oracle"
    encoder: Literal["fista", "stagewise", "threshold", "relu"] = "fista"
    """How the dictionary encodes: by lasso, stagewise least squares, one fitted layer, or plain projections."""
    l1: float = Field(0.01, ge=0)
    """Penalty of the lasso, in units of the mean activation norm."""
    threshold: float = Field(0.03, ge=0)
    """Lasso codes up to this value are set to zero, in units of the mean activation norm."""
    n_iterations: int = Field(200, gt=0)
    """Maximum number of FISTA iterations per sample."""

    needs: ClassVar[frozenset[str]] = frozenset({"truth"})
    seeded: ClassVar[bool] = False

    def fit(self, source: Source, seed: int) -> Dictionary:
        truth = source.truth
        assert truth is not None
        directions = truth.directions[truth.represented]
        offset = torch.zeros(source.d_in) if truth.offset is None else truth.offset
        tied = Relu.tied(directions, offset).with_card(**FitCost().card_entry())
        if self.encoder == "relu":
            return tied
        if self.encoder == "stagewise":
            return tied.with_encoder("stagewise", source, seed)
        if self.encoder == "threshold":
            return tied.with_encoder("threshold", source, seed, layer="learned", **self.lasso)
        rows = training_rows(source, 4096, seed)
        norm = float((rows - offset).norm(dim=-1).mean())
        d = Fista.over(directions, offset, self.l1 * norm, self.n_iterations, self.threshold * norm)
        return d.with_card(**FitCost(len(rows), len(rows), rows.numel()).card_entry())

    @property
    def lasso(self) -> dict[str, float]:
        """The settings of the lasso, as arguments of an encoder's config."""
        return self.model_dump(include={"l1", "threshold", "n_iterations"})
