"""Two quantities that share one number, because only one of them is wanted at a time.

    s ~ Bernoulli(1/2),    z = x1 - M  in scenario 1,    z = x2 + M  in scenario 2,    x ~ N(0, sigma^2)

A reader who knows the rule takes z < 0 for scenario 1 with x1 = z + M, and else scenario 2 with x2 = z - M
(:func:`decode_scenario`). It mistakes the scenario with probability ``Q(M / sigma)`` in either, Q the upper tail of
the normal
distribution: M buys certainty with range, at no cost in dimensions. With `exclusive` the two are not negative, only
one is not zero, and ``z = x1 - x2`` needs no M: ``ReLU(z)`` and ``ReLU(-z)`` give both back exactly.

T. Lieberum's two-scenario code; the second is the antipodal pair of Elhage et al. 2022, 'Toy Models of Superposition'.

There is a truth in directions, -1 and +1, and z is exactly the sum of ``ReLU(-z)`` and ``ReLU(z)`` along them, which
are the codes here. What is not linear is their meaning. The coefficient along -1 is M - x1, that along +1 is M + x2, so
that what a latent gives must be read about M; and which is active tells the scenario up to that error. The label
`scenario` is what was drawn: 0 for the first, 1 for the second. With `exclusive` codes and meaning agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor

from sae.numerics.fast_random import uniform
from sae.registry import UserError
from sae.source import Batch, Truth
from sae.toys.nonlinear_code import Code


class Config(Code):
    """Settings. `margin` is M and `sigma` the standard deviation of x; with `exclusive` x is ``|N(0, sigma^2)|``."""

    kind: Literal["scenario"] = "scenario"
    margin: float | None = Field(None, gt=0)
    sigma: float = Field(1.0, gt=0)
    exclusive: bool = False

    provides: ClassVar[frozenset[str]] = frozenset({"labels", "truth", "codes"})

    @model_validator(mode="after")
    def _a_margin_or_none(self) -> Config:
        if self.exclusive and self.margin is not None:
            raise UserError(f"margin = {self.margin:g}: an exclusive code has none; leave it out, or exclusive")
        if not self.exclusive and self.margin is None:
            raise UserError("margin is missing: how far apart the scenarios are written; or set exclusive = true")
        return self

    @property
    def dimensions(self) -> int:
        return 1

    @property
    def error(self) -> float:
        """The probability that a reader takes one scenario for the other."""
        return 0.0 if self.margin is None else float(torch.special.ndtr(torch.tensor(-self.margin / self.sigma)))

    def draw(self, given: Mapping[str, Tensor], size: int, draw: torch.Generator) -> Batch:
        scenario = (uniform((size,), draw) < 0.5).long()
        x = self.sigma * torch.randn(size, generator=draw)
        z = (1 - 2 * scenario) * x.abs() if self.margin is None else x + (2 * scenario - 1) * self.margin
        codes = torch.stack([z.relu(), (-z).relu()], dim=1) @ self._order
        return Batch(z[:, None], codes, {"scenario": scenario})

    def truth(self) -> Truth:
        directions = self._order @ torch.tensor([[1.0], [-1.0]])
        return Truth(directions, torch.ones(2, dtype=torch.bool), torch.full((2,), 0.5))

    @property
    def _order(self) -> Float[Tensor, "2 2"]:
        """Puts the first scenario's feature first: it points along -1 but in the exclusive code."""
        return torch.eye(2) if self.exclusive else torch.eye(2).flip(0)


def decode_scenario(
    z: Float[Tensor, " rows"], margin: float
) -> tuple[Int[Tensor, " rows"], Float[Tensor, " rows"], Float[Tensor, " rows"]]:
    """The scenario that z is taken for, and x1 and x2, 0 for the one that is not wanted."""
    second = z >= 0
    return second.long(), (z + margin).masked_fill(second, 0), (z - margin).masked_fill(~second, 0)
