"""Positions on circles: a feature that is a curve, while a direction has only a strength.

Of n point features around a circle, at phi = 0, 2 pi / n, ..., those near the position theta are active,

    x_phi = a cos((phi - theta) / l)  where  |phi - theta| <= l pi / 2,  else 0,

with angles taken the shorter way round, theta uniform and a the amplitude (Olah and Batson 2023, 'Feature manifold toy
model'). Each of `circles` circles is on with `probability`, independently. With ``placed = "axes"`` every x_phi has its
own dimension and the curve lies in n dimensions; with ``"plane"`` it is written at (cos phi, sin phi), and the curve is
a circle in two dimensions, up to a ripple from finite n.

theta is continuous, so n only sets the resolution: directions tile the circle, more finely the more there are, and no
number of them is the right one. Labels: `circle_c_bin_b`, 1 where circle c is on and theta is in the b-th of `bins`
equal arcs. What can be recovered is the subspace of each circle (:mod:`sae.metrics.subspace`).
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
    """Settings of the circle code."""

    kind: Literal["circle"] = "circle"
    circles: int = Field(1, gt=0)
    """Number of circles."""
    points: int = Field(16, ge=3)
    """Number n of point features around each circle."""
    width: float = Field(1 / 3, gt=0, le=2)
    """Width l of the bump of active point features."""
    placed: Literal["plane", "axes"] = "axes"
    """Whether each circle lies in a plane, or each point feature has its own dimension."""
    probability: float = Field(1.0, gt=0, le=1)
    """Probability that a circle is on."""
    values: AnyValues = ConstantValue()
    """Distribution of the amplitude a."""
    bins: int = Field(8, ge=2)
    """Number of arcs per circle in the labels."""

    nonlinear: ClassVar[str] = "a position on a circle is continuous, and directions can only tile the circle"
    provides: ClassVar[frozenset[str]] = frozenset({"labels", "subspaces"})

    @model_validator(mode="after")
    def _no_gaps(self) -> Config:
        if self.width * self.points <= 2:
            raise UserError(
                f"width = {self.width:g}: with points = {self.points} some positions activate no feature; give more "
                f"than {2 / self.points:g}, or more points"
            )
        return self

    @property
    def dimensions(self) -> int:
        return self.circles * self._dimensions_each

    @property
    def _dimensions_each(self) -> int:
        return 2 if self.placed == "plane" else self.points

    def tensors(self, seed: int) -> dict[str, Tensor]:
        return {f"values.{name}": t for name, t in self.values.tensors(self.circles, seed).items()}

    def draw(self, tensors: Mapping[str, Tensor], size: int, draw: torch.Generator) -> Batch:
        shape = size, self.circles
        theta, is_on = 2 * math.pi * uniform(shape, draw), uniform(shape, draw) < self.probability
        of_values = {name.removeprefix("values."): t for name, t in tensors.items()}
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
        return torch.eye(self.dimensions).view(self.circles, self._dimensions_each, self.dimensions)


def bump(theta: Float[Tensor, "*shape"], points: int, width: float) -> Float[Tensor, "*shape {points}"]:
    """``cos((phi - theta) / width)`` at the points phi around the circle, 0 beyond a quarter of its period."""
    phi = 2 * math.pi * torch.arange(points) / points
    difference = (phi - theta[..., None] + math.pi).remainder(2 * math.pi) - math.pi
    return ((difference / width).clamp(-math.pi / 2, math.pi / 2)).cos().clamp_min(0)
