"""Two numbers in one: the first in the leading digits, the second in the remainder.

    t = (floor(Z x) + y) / Z,    x, y ~ U[0, 1]

so that ``floor(Z x) = floor(Z t)`` and ``y = Z t - floor(Z t)`` can be decoded exactly. This is nonlinear compression
(Elhage et al. 2022, 'Toy Models of Superposition'); its price is that an error in t becomes Z times as large in y.

Labels: `x`, the digit floor(Zx), and `y`, 1 where y is at least a half. The digit is a position along one direction,
not a direction of its own, and y is a sawtooth function of it, which no linear probe and no single latent can follow.
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
    """Settings of the floor code."""

    kind: Literal["floor"] = "floor"
    levels: int = Field(8, ge=2, le=1024)
    """Number of levels Z of the first number."""

    nonlinear: ClassVar[str] = (
        "one direction carries two numbers: the first is a position along it, the second a sawtooth function of that"
    )

    @property
    def dimensions(self) -> int:
        return 1

    def draw(self, tensors: Mapping[str, Tensor], size: int, draw: torch.Generator) -> Batch:
        x, y = uniform((2, size), draw)
        digit = (self.levels * x).floor().clamp_max(self.levels - 1)
        t = (digit + y) / self.levels
        return Batch(t[:, None], labels={"x": digit.long(), "y": (y >= 0.5).long()})


def decode_digit(t: Float[Tensor, " rows"], levels: int) -> tuple[Int[Tensor, " rows"], Float[Tensor, " rows"]]:
    """Decodes t into the digit ``floor(Z x)`` and y."""
    digit = (levels * t).floor()
    return digit.long(), levels * t - digit
