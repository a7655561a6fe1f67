"""Two numbers in one, the first in its leading digits and the second in what is left.

    t = (floor(Z x) + y) / Z,    x, y ~ U[0, 1)

so that ``floor(Z x) = floor(Z t)`` and ``y = Z t - floor(Z t)`` come back exactly: nonlinear compression (Elhage et
al. 2022, 'Toy Models of Superposition'), at the price that a small error of t is Z times as large an error of y.

Labels: `x`, the digit floor(Zx), and `y`, 1 where y is at least a half. The digit is a place along one direction, not a
direction of its own, and y is a sawtooth over it, which no linear reader and no single latent follows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from sae.numerics.fast_random import uniform
from sae.source import Batch
from sae.toys.nonlinear_code import Code


class Config(Code):
    """Settings. `levels` is Z."""

    kind: Literal["floor"] = "floor"
    levels: int = Field(8, ge=2, le=1024)

    nonlinear: ClassVar[str] = (
        "one number along one direction holds two: the first is a place on the line, the second a sawtooth over it"
    )

    @property
    def dimensions(self) -> int:
        return 1

    def draw(self, given: Mapping[str, Tensor], size: int, draw: torch.Generator) -> Batch:
        x, y = uniform((2, size), draw)
        digit = (self.levels * x).floor().clamp_max(self.levels - 1)
        t = (digit + y) / self.levels
        return Batch(t[:, None], labels={"x": digit.long(), "y": (y >= 0.5).long()})


def decode_digit(t: Float[Tensor, " rows"], levels: int) -> tuple[Int[Tensor, " rows"], Float[Tensor, " rows"]]:
    """The digit ``floor(Z x)`` and y."""
    digit = (levels * t).floor()
    return digit.long(), levels * t - digit
