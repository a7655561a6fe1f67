"""Activations that are a nonlinear code of what is known, so that there are labels, and no direction for what they
name, or only for part of it.

    x = c(what is known) E + noise

with a code c of few dimensions (one file each in :mod:`sae.toys.codes`) and E the identity or, where `d_in` is more
than
these, orthonormal rows that embed them, turned at random. Of most of these codes no dictionary of directions is
expected to find the features, however well it reconstructs; the report says so, and what nearest neighbours read off
the same activations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from sae.numerics.seeds import generator
from sae.registry import UserError
from sae.source import Batch, Source, Split, Truth
from sae.toys.base import ToyConfig
from sae.toys.codes.circle import Config as Circle
from sae.toys.codes.floor import Config as Floor
from sae.toys.codes.hash import Config as Hash
from sae.toys.codes.scenario import Config as Scenario
from sae.toys.features.directions import rotation

N_LABELLED = 10_000
"""Rows of each half on which labels are read."""

AnyCode = Annotated[Scenario | Floor | Circle | Hash, Field(discriminator="kind")]


class Config(ToyConfig):
    """Settings. `d_in` is the number of dimensions of the code where unset; `noise` the standard deviation of Gaussian
    noise on every coordinate."""

    kind: Literal["code"] = "code"
    code: AnyCode
    d_in: int | None = Field(None, gt=0)
    noise: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> Config:
        if self.d_in is not None and self.d_in < self.code.dimensions:
            raise UserError(
                f"d_in = {self.d_in}: the code {self.code.kind!r} takes {self.code.dimensions} dimensions; give as "
                "many, or leave d_in out"
            )
        return self

    @property
    def provides(self) -> frozenset[str]:
        return self.code.provides

    @property
    def nonlinear(self) -> str:
        return self.code.nonlinear

    def tensors(self) -> dict[str, Tensor]:
        own = self.code.dimensions
        embeds = self.d_in is not None and self.d_in > own
        rows = rotation(self.d_in, generator("directions", self.seed))[:own] if self.d_in and embeds else torch.eye(own)
        of_code = {f"code.{name}": t.contiguous() for name, t in self.code.tensors(self.seed).items()}
        return {"directions": rows.contiguous(), **of_code}

    def assemble(self, tensors: Mapping[str, Tensor]) -> Source:
        return Coded(self, tensors)


class Coded(Source):
    """Rows of a code."""

    def __init__(self, config: Config, tensors: Mapping[str, Tensor]) -> None:
        self.config, self.embedding = config, tensors["directions"]
        self.given = {name.removeprefix("code."): t for name, t in tensors.items() if name.startswith("code.")}
        self.d_in = self.embedding.shape[1]
        self.truth = self._embedded(config.code.truth())
        own = config.code.subspaces()
        self.subspaces = None if own is None else own @ self.embedding

    def _embedded(self, truth: Truth | None) -> Truth | None:
        return None if truth is None else replace(truth, directions=truth.directions @ self.embedding)

    def batch(self, step: int, size: int, split: Split = "train") -> Batch:
        draw = generator("code", self.config.seed, split, step)
        own = self.config.code.draw(self.given, size, draw)
        acts = own.acts @ self.embedding
        if self.config.noise:
            acts += self.config.noise * torch.randn(acts.shape, generator=draw)
        return replace(own, acts=acts)

    def labelled(self) -> tuple[Batch, Batch]:
        return self.batch(0, N_LABELLED, "choose"), self.batch(0, N_LABELLED, "test")
