"""Activations that encode known variables nonlinearly: the variables have labels, but few or none have a direction.

    x = c(s) E + noise

with s the variables, c a code of few dimensions (one file each in :mod:`sae.toys.codes`) and E the identity, or random
orthonormal rows if `d_in` is larger than the code. For most of these codes no dictionary of directions is expected to
find the variables, however well it reconstructs. The report says so, and compares with what nearest neighbours predict
from the same activations.
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
"""The number of labelled samples of each split."""

AnyCode = Annotated[Scenario | Floor | Circle | Hash, Field(discriminator="kind")]


class Config(ToyConfig):
    """Settings of a source of nonlinear codes."""

    kind: Literal["code"] = "code"
    code: AnyCode
    """The code."""
    d_in: int | None = Field(None, gt=0)
    """The width of the activations; default: the dimensions of the code."""
    noise: float = Field(0.0, ge=0)
    """The standard deviation of Gaussian noise on every coordinate."""

    @model_validator(mode="after")
    def _fits(self) -> Config:
        if self.d_in is not None and self.d_in < self.code.dimensions:
            raise UserError(
                f"d_in = {self.d_in}: the code {self.code.kind!r} has {self.code.dimensions} dimensions; give at least "
                "as many, or leave d_in out"
            )
        return self

    @property
    def planned_width(self) -> int:
        return self.d_in or self.code.dimensions

    @property
    def provides(self) -> frozenset[str]:
        return self.code.provides

    @property
    def nonlinear(self) -> str:
        return self.code.nonlinear

    def least_bytes(self) -> dict[str, int]:
        n, d_in = self.code.dimensions, self.d_in or 0
        # The identity, or the first rows of a random rotation, which is made in float64.
        return {f"code of {n} dimensions": 4 * n * n} | ({f"d_in = {d_in}": 8 * d_in * d_in} if d_in > n else {})

    def tensors(self) -> dict[str, Tensor]:
        n = self.code.dimensions
        embeds = self.d_in is not None and self.d_in > n
        rows = rotation(self.d_in, generator("directions", self.seed))[:n] if self.d_in and embeds else torch.eye(n)
        code_tensors = {f"code.{name}": t.contiguous() for name, t in self.code.tensors(self.seed).items()}
        return {"directions": rows.contiguous(), **code_tensors}

    def assemble(self, tensors: Mapping[str, Tensor]) -> Source:
        return Coded(self, tensors)


class Coded(Source):
    """Samples of a code."""

    def __init__(self, config: Config, tensors: Mapping[str, Tensor]) -> None:
        self.config, self.embedding = config, tensors["directions"]
        self.code_tensors = {n.removeprefix("code."): t for n, t in tensors.items() if n.startswith("code.")}
        self.d_in = self.embedding.shape[1]
        self.truth = self._embedded(config.code.truth())
        subspaces = config.code.subspaces()
        self.subspaces = None if subspaces is None else subspaces @ self.embedding

    def _embedded(self, truth: Truth | None) -> Truth | None:
        return None if truth is None else replace(truth, directions=truth.directions @ self.embedding)

    def batch(self, step: int, size: int, split: Split = "train") -> Batch:
        draw = generator("code", self.config.seed, split, step)
        batch = self.config.code.draw(self.code_tensors, size, draw)
        acts = batch.acts @ self.embedding
        if self.config.noise:
            acts += self.config.noise * torch.randn(acts.shape, generator=draw)
        return replace(batch, acts=acts)

    def labelled(self) -> tuple[Batch, Batch]:
        return self.batch(0, N_LABELLED, "choose"), self.batch(0, N_LABELLED, "test")
