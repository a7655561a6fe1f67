"""One number for each feature: the same for all, a list, falling with the rank, or drawn.

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
    """A rule for `n` numbers."""

    @abstractmethod
    def numbers(self, n: int, draw: torch.Generator) -> Float64[Tensor, " n"]:
        """The numbers; those that are drawn come from `draw`."""


class ConstantSeries(Series):
    """The same for all."""

    kind: Literal["constant"] = "constant"
    value: float

    def numbers(self, n: int, draw: torch.Generator) -> Float64[Tensor, " n"]:
        return torch.full((n,), self.value, dtype=torch.float64)


class Listed(Series):
    """One by one."""

    kind: Literal["list"] = "list"
    values: tuple[float, ...]

    def numbers(self, n: int, draw: torch.Generator) -> Float64[Tensor, " n"]:
        if len(self.values) != n:
            raise UserError(f"a list of {len(self.values)} where {n} numbers are needed")
        return torch.tensor(self.values, dtype=torch.float64)


class Linear(Series):
    """In equal steps from `first` to `last`."""

    kind: Literal["linear"] = "linear"
    first: float
    last: float

    def numbers(self, n: int, draw: torch.Generator) -> Float64[Tensor, " n"]:
        return torch.linspace(self.first, self.last, n, dtype=torch.float64)


class Geometric(Series):
    """``ratio^rank``, scaled to begin at `first` or to have the mean `mean`."""

    kind: Literal["geometric"] = "geometric"
    ratio: float = Field(gt=0, le=1)
    first: float | None = None
    mean: float | None = None

    @model_validator(mode="after")
    def _one_scale(self) -> Geometric:
        if (self.first is None) == (self.mean is None):
            raise UserError("geometric: give either first or mean")
        return self

    def numbers(self, n: int, draw: torch.Generator) -> Float64[Tensor, " n"]:
        shape = self.ratio ** torch.arange(n, dtype=torch.float64)
        return shape * (cast(float, self.first) if self.mean is None else self.mean / shape.mean())


class Zipf(Series):
    """``rank^-exponent`` from rank 1: scaled to the mean `mean`, or stretched to run from `first` to `last`, as
    SynthSAEBench (arXiv 2602.14687) has it."""

    kind: Literal["zipf"] = "zipf"
    exponent: float = Field(1.0, gt=0)
    mean: float | None = None
    first: float | None = None
    last: float | None = None

    @model_validator(mode="after")
    def _one_scale(self) -> Zipf:
        if (self.first is None) != (self.last is None) or (self.first is None) == (self.mean is None):
            raise UserError("zipf: give either mean, or first and last")
        return self

    def numbers(self, n: int, draw: torch.Generator) -> Float64[Tensor, " n"]:
        shape = torch.arange(1, n + 1, dtype=torch.float64) ** -self.exponent
        if self.mean is not None:
            return shape * (self.mean / shape.mean())
        first, last = cast(float, self.first), cast(float, self.last)
        return last + (first - last) * (shape - shape[-1]) / (shape[0] - shape[-1]).clamp_min(1e-300)


class LogUniform(Series):
    """Drawn with a logarithm that is uniform between those of `low` and `high`."""

    kind: Literal["log_uniform"] = "log_uniform"
    low: float = Field(gt=0)
    high: float = Field(gt=0)

    def numbers(self, n: int, draw: torch.Generator) -> Float64[Tensor, " n"]:
        u = torch.rand(n, generator=draw, dtype=torch.float64)
        return self.low * (self.high / self.low) ** u


class FoldedNormalSeries(Series):
    """Drawn as ``|N(mean, sd)|``."""

    kind: Literal["folded_normal"] = "folded_normal"
    mean: float = 0.0
    sd: float = Field(1.0, ge=0)

    def numbers(self, n: int, draw: torch.Generator) -> Float64[Tensor, " n"]:
        return (self.mean + self.sd * torch.randn(n, generator=draw, dtype=torch.float64)).abs()


def _as_table(given: Any) -> Any:
    """A number and a list are short for tables."""
    if isinstance(given, int | float):
        return {"kind": "constant", "value": given}
    if isinstance(given, list | tuple):
        return {"kind": "list", "values": tuple(cast(Sequence[Any], given))}
    return given


PerFeature = Annotated[
    ConstantSeries | Listed | Linear | Geometric | Zipf | LogUniform | FoldedNormalSeries,
    Field(discriminator="kind"),
    BeforeValidator(_as_table),
]
"""A number for each feature, as a config gives it."""


def numbers(series: Series, n: int, draw: torch.Generator, field: str) -> Float64[Tensor, " n"]:
    """The numbers of the setting `field`; a ``ValueError`` names it."""
    try:
        return series.numbers(n, draw)
    except ValueError as error:
        raise UserError(f"{field}: {error}") from None


def probabilities(series: Series, n: int, draw: torch.Generator, field: str) -> Float64[Tensor, " n"]:
    """The same, each above 0 and at most 1."""
    p = numbers(series, n, draw, field)
    for i in ((p <= 0) | (p > 1)).nonzero()[:1, 0].tolist():
        raise UserError(f"{field}: number {i} is {float(p[i]):.4g}; a probability is above 0 and at most 1")
    return p
