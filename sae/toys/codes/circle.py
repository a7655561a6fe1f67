"""Places on circles: a feature that fills a curve, where a direction holds only a strength.

Of n features around a circle, at phi = 0, 2 pi / n, ..., those near the place theta are active,

    x_phi = a cos((phi - theta) / l)  where  |phi - theta| <= l pi / 2,  else 0,

the shorter way round, with theta uniform and a the amplitude (Olah and Batson 2023, 'Feature manifold toy model').
Each of `circles` circles is on with `probability`, by itself. With ``placed = "axes"`` every x_phi has a dimension of
its own and the curve winds through n of them; with ``"plane"`` it is written at (cos phi, sin phi), and the curve is a
circle in two dimensions, up to a ripple from n.

theta is continuous, so n is only how finely it is written: directions tile the circle, the more of them the finer, and
no number of them is the right one. Labels: `circle_c_bin_b`, 1 where circle c is on with theta in the b-th of `bins`
equal arcs. What can be found is the subspace of each circle (:mod:`sae.metrics.subspace`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from sae.numerics.fast_random import uniform
from sae.registry import UserError
from sae.source import Batch
from sae.toys.features.directions import polygon
from sae.toys.features.values import AnyValues, ConstantValue
from sae.toys.nonlinear_code import Code


class Config(Code):
    """Settings. `points` is n and `width` l; `values` is the law of the amplitude a."""

    kind: Literal["circle"] = "circle"
    circles: int = Field(1, gt=0)
    points: int = Field(16, ge=3)
    width: float = Field(1 / 3, gt=0, le=2)
    placed: Literal["plane", "axes"] = "axes"
    probability: float = Field(1.0, gt=0, le=1)
    values: AnyValues = ConstantValue()
    bins: int = Field(8, ge=2)

    nonlinear: ClassVar[str] = "a place on a circle is continuous, and directions can only tile it, ever more finely"
    provides: ClassVar[frozenset[str]] = frozenset({"labels", "subspaces"})

    @model_validator(mode="after")
    def _no_gaps(self) -> Config:
        if self.width * self.points <= 2:
            raise UserError(
                f"width = {self.width:g}: with points = {self.points} some places activate no feature; take more than "
                f"{2 / self.points:g}, or more points"
            )
        return self

    @property
    def dimensions(self) -> int:
        return self.circles * self._each

    @property
    def _each(self) -> int:
        return 2 if self.placed == "plane" else self.points

    def tensors(self, seed: int) -> dict[str, Tensor]:
        return {f"values.{name}": t for name, t in self.values.tensors(self.circles, seed).items()}

    def draw(self, given: Mapping[str, Tensor], size: int, draw: torch.Generator) -> Batch:
        shape = size, self.circles
        theta, is_on = 2 * math.pi * uniform(shape, draw), uniform(shape, draw) < self.probability
        of_values = {name.removeprefix("values."): t for name, t in given.items()}
        amplitude = torch.zeros(shape)
        amplitude[is_on] = self.values.draw(of_values, is_on.nonzero()[:, 1], draw)
        x = bump(theta, self.points, self.width) * amplitude[..., None]
        if self.placed == "plane":
            x = x @ polygon(self.points)
        arc = (theta / (2 * math.pi) * self.bins).long().clamp_max(self.bins - 1).masked_fill(~is_on, -1)
        pairs = ((c, b) for c in range(self.circles) for b in range(self.bins))
        labels = {f"circle_{c}_bin_{b}": (arc[:, c] == b).long() for c, b in pairs}
        return Batch(x.flatten(1), labels=labels)

    def subspaces(self) -> Float[Tensor, "n_subspaces k dimensions"]:
        return torch.eye(self.dimensions).view(self.circles, self._each, self.dimensions)


def bump(theta: Float[Tensor, "*shape"], points: int, width: float) -> Float[Tensor, "*shape {points}"]:
    """``cos((phi - theta) / width)`` over the places phi around the circle, 0 beyond the quarter of its period."""
    phi = 2 * math.pi * torch.arange(points) / points
    apart = (phi - theta[..., None] + math.pi).remainder(2 * math.pi) - math.pi
    return ((apart / width).clamp(-math.pi / 2, math.pi / 2)).cos().clamp_min(0)
