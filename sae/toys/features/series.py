"""One number for each feature: constant, listed, falling with the rank, or random.

In a config a bare number stands for ``{kind = "constant", value = ...}`` and a list for ``{kind = "list", ...}``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any, Literal, cast

import torch
from jaxtyping import Float64
from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor

from sae.registry import Settings, UserError


class Series(Settings, ABC):
    """Interface of rules for `n` numbers."""

    @abstractmethod
    def numbers(self, n: int, draw: torch.Generator) -> Float64[Tensor, " n"]:
        """The `n` numbers; random ones come from `draw`."""


class ConstantSeries(Series):
    """The same number for all."""

    kind: Literal["constant"] = "constant"
    value: float
    """The number."""

    def numbers(self, n: int, draw: torch.Generator) -> Float64[Tensor, " n"]:
        return torch.full((n,), self.value, dtype=torch.float64)


class Listed(Series):
    """A list of numbers."""

    kind: Literal["list"] = "list"
    values: tuple[float, ...]
    """The numbers."""

    def numbers(self, n: int, draw: torch.Generator) -> Float64[Tensor, " n"]:
        if len(self.values) != n:
            raise UserError(f"a list of {len(self.values)} where {n} numbers are needed")
        return torch.tensor(self.values, dtype=torch.float64)


class Linear(Series):
    """Equal steps from `first` to `last`."""

    kind: Literal["linear"] = "linear"
    first: float
    """The first number."""
    last: float
    """The last number."""

    def numbers(self, n: int, draw: torch.Generator) -> Float64[Tensor, " n"]:
        return torch.linspace(self.first, self.last, n, dtype=torch.float64)


class Geometric(Series):
    """``ratio^rank``, with rank from 0, scaled to a first number or a mean."""

    kind: Literal["geometric"] = "geometric"
    ratio: float = Field(gt=0, le=1)
    """Ratio of each number to the one before."""
    first: float | None = None
    """The first number; give either this or `mean`."""
    mean: float | None = None
    """The mean of the numbers."""

    @model_validator(mode="after")
    def _one_scale(self) -> Geometric:
        if (self.first is None) == (self.mean is None):
            raise UserError(f"first = {self.first}, mean = {self.mean}: give either first or mean")
        return self

    def numbers(self, n: int, draw: torch.Generator) -> Float64[Tensor, " n"]:
        shape = self.ratio ** torch.arange(n, dtype=torch.float64)
        return shape * (cast(float, self.first) if self.mean is None else self.mean / shape.mean())


class Zipf(Series):
    """``rank^-exponent``, with rank from 1, scaled to a mean, or mapped linearly to run from `first` to `last` as in
    SynthSAEBench (arXiv 2602.14687)."""

    kind: Literal["zipf"] = "zipf"
    exponent: float = Field(1.0, gt=0)
    """Exponent of the power law."""
    mean: float | None = None
    """The mean of the numbers; give either this, or `first` and `last`."""
    first: float | None = None
    """The first number."""
    last: float | None = None
    """The last number."""

    @model_validator(mode="after")
    def _one_scale(self) -> Zipf:
        if (self.first is None) != (self.last is None) or (self.first is None) == (self.mean is None):
            raise UserError(
                f"mean = {self.mean}, first = {self.first}, last = {self.last}: give either mean, or first and last"
            )
        return self

    def numbers(self, n: int, draw: torch.Generator) -> Float64[Tensor, " n"]:
        shape = torch.arange(1, n + 1, dtype=torch.float64) ** -self.exponent
        if self.mean is not None:
            return shape * (self.mean / shape.mean())
        first, last = cast(float, self.first), cast(float, self.last)
        return last + (first - last) * (shape - shape[-1]) / (shape[0] - shape[-1]).clamp_min(1e-300)


class LogUniform(Series):
    """Random numbers whose logarithm is uniform."""

    kind: Literal["log_uniform"] = "log_uniform"
    low: float = Field(gt=0)
    """Smallest number."""
    high: float = Field(gt=0)
    """Largest number."""

    def numbers(self, n: int, draw: torch.Generator) -> Float64[Tensor, " n"]:
        u = torch.rand(n, generator=draw, dtype=torch.float64)
        return self.low * (self.high / self.low) ** u


class FoldedNormalSeries(Series):
    """Random numbers ``|N(mean, sd^2)|``."""

    kind: Literal["folded_normal"] = "folded_normal"
    mean: float = 0.0
    """Mean of the normal distribution."""
    sd: float = Field(1.0, ge=0)
    """Standard deviation of the normal distribution."""

    def numbers(self, n: int, draw: torch.Generator) -> Float64[Tensor, " n"]:
        return (self.mean + self.sd * torch.randn(n, generator=draw, dtype=torch.float64)).abs()


def _as_table(value: Any) -> Any:
    """The table that a bare number or list stands for; other values unchanged."""
    if isinstance(value, int | float):
        return {"kind": "constant", "value": value}
    if isinstance(value, list | tuple):
        return {"kind": "list", "values": tuple(cast(Sequence[Any], value))}
    return value


PerFeature = Annotated[
    ConstantSeries | Listed | Linear | Geometric | Zipf | LogUniform | FoldedNormalSeries,
    Field(discriminator="kind"),
    BeforeValidator(_as_table),
]
"""A number for each feature in a config."""


def numbers(series: Series, n: int, draw: torch.Generator, field: str) -> Float64[Tensor, " n"]:
    """The numbers of the setting `field`; raises `UserError` with its name."""
    try:
        return series.numbers(n, draw)
    except UserError as error:
        raise UserError(f"{field}: {error}") from None


def probabilities(series: Series, n: int, draw: torch.Generator, field: str) -> Float64[Tensor, " n"]:
    """:func:`numbers` that are probabilities; raises `UserError` if one is not above 0 and at most 1."""
    p = numbers(series, n, draw, field)
    for i in ((p <= 0) | (p > 1)).nonzero()[:1, 0].tolist():
        raise UserError(f"{field}: number {i} is {float(p[i]):.4g}; a probability is above 0 and at most 1")
    return p
