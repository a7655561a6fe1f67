"""Two quantities that share one number, because only one of them is relevant at a time.

    s ~ Bernoulli(1/2),    z = x1 - M  in scenario 1,    z = x2 + M  in scenario 2,    x ~ N(0, sigma^2)

A decoder that knows the rule takes z < 0 for scenario 1 with x1 = z + M, and else for scenario 2 with x2 = z - M
(:func:`decode_scenario`). It mistakes either scenario with probability ``Q(M / sigma)``, where Q is the upper tail of
the normal distribution: a larger M lowers the error and needs a larger range, but no more dimensions. With `exclusive`
both quantities are non-negative and only one is non-zero; then ``z = x1 - x2`` needs no M, and ``ReLU(z)`` and
``ReLU(-z)`` return both exactly.

The code is T. Lieberum's two-scenario code; the exclusive one is the antipodal pair of Elhage et al. 2022, 'Toy Models
of Superposition'.

There are true directions, -1 and +1, with codes ``ReLU(-z)`` and ``ReLU(z)``, and z is exactly their sum. What is
nonlinear is their meaning: the coefficient along -1 is M - x1 and that along +1 is M + x2, so a latent's value must be
compared with M, and which of the two is active determines the scenario up to the error above. The label `scenario` is
the drawn scenario: 0 for the first, 1 for the second. With `exclusive`, codes and meaning agree.
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
    """Settings of the two-scenario code."""

    kind: Literal["scenario"] = "scenario"
    margin: float | None = Field(None, gt=0)
    """The offset M between the scenarios and 0; needed unless `exclusive`."""
    sigma: float = Field(1.0, gt=0)
    """Standard deviation of the normal distribution of x."""
    exclusive: bool = False
    """Whether x is ``|N(0, sigma^2)|`` and only one quantity is non-zero."""

    provides: ClassVar[frozenset[str]] = frozenset({"labels", "truth", "codes"})

    @model_validator(mode="after")
    def _margin_or_exclusive(self) -> Config:
        if self.exclusive and self.margin is not None:
            raise UserError(f"margin = {self.margin:g}: unused by an exclusive code; leave out margin or exclusive")
        if not self.exclusive and self.margin is None:
            raise UserError("margin is missing: give the offset of the scenarios, or set exclusive = true")
        return self

    @property
    def dimensions(self) -> int:
        return 1

    @property
    def error(self) -> float:
        """The probability that :func:`decode_scenario` mistakes the scenario."""
        return 0.0 if self.margin is None else float(torch.special.ndtr(torch.tensor(-self.margin / self.sigma)))

    def draw(self, tensors: Mapping[str, Tensor], size: int, draw: torch.Generator) -> Batch:
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
        """A permutation that puts the first scenario's feature first: along -1, or +1 in the exclusive code."""
        return torch.eye(2) if self.exclusive else torch.eye(2).flip(0)


def decode_scenario(
    z: Float[Tensor, " rows"], margin: float
) -> tuple[Int[Tensor, " rows"], Float[Tensor, " rows"], Float[Tensor, " rows"]]:
    """The decoded scenario (0 or 1), x1 and x2; the quantity of the other scenario is 0."""
    second = z >= 0
    return second.long(), (z + margin).masked_fill(second, 0), (z - margin).masked_fill(~second, 0)
