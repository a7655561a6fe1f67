"""The noun `Encoder`: another way to read a decoder than by the dictionary's own layer.

The kinds are files of ``sae/encoders/``. Each has a ``Config``, which turns a dictionary into one with the same
directions that is read otherwise, and, where what comes out is a kind of dictionary of its own, ``KIND``, the final
`Dictionary` class that :func:`sae.load` builds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from sae.dictionary import Dictionary
from sae.numerics.fit_cost import FitCost
from sae.registry import KindSettings, UserError
from sae.source import Source

N_NORM = 4096
"""Training rows on which the mean activation norm is measured."""
FIRST_STEP = 2**30
"""Where the training rows that encoders look at begin, far from the steps that trained the dictionary."""


class EncoderConfig(KindSettings, ABC):
    """Settings of one way to read a dictionary."""

    interface: ClassVar[str] = "encoders"

    @abstractmethod
    def fit(self, d: Dictionary, source: Source | None, seed: int) -> Dictionary:
        """The directions of `d`, read this way. Only training rows of `source` are looked at; a ``ValueError`` of
        one line says what they are needed for where there is none."""

    def fit_cost(self, d: Dictionary, source: Source | None) -> FitCost:
        """What :meth:`fit` looks at and computes; nothing, where the directions say it all."""
        return FitCost()


class LassoConfig(EncoderConfig):
    """Settings of an encoder that solves a non-negative lasso, or that learns from one.

    `l1` and `threshold` are in units of the mean norm of ``x - b_dec`` over training rows (``units = "norm"``), or
    in those of the activations (``"raw"``, where no rows are needed). `n_iterations` is the most that a row takes;
    it is done before when no code changes by more than `tolerance` times the row's largest.
    """

    l1: float = Field(0.01, ge=0)
    threshold: float = Field(0.03, ge=0)
    units: Literal["norm", "raw"] = "norm"
    n_iterations: int = Field(200, gt=0)
    tolerance: float = Field(1e-3, ge=0)

    def raw(self, d: Dictionary, source: Source | None) -> tuple[float, float]:
        """`l1` and `threshold` in units of the activations."""
        if self.units == "raw":
            return self.l1, self.threshold
        norm = mean_norm(d, needed(source, "to measure the unit of l1 (or units = 'raw')"))
        return self.l1 * norm, self.threshold * norm

    def fit_cost(self, d: Dictionary, source: Source | None) -> FitCost:
        """The rows that the unit is measured on."""
        n = 0 if source is None or self.units == "raw" else taken(source, N_NORM)
        return FitCost(n, n, n * d.d_in)


def needed(source: Source | None, why: str) -> Source:
    """The source, or a ``ValueError`` that says what its rows are needed for."""
    if source is None:
        raise UserError(f"encoder: training rows are needed {why}: give x, a matrix [rows, d_in] or a source")
    return source


def encoder_rows(source: Source, d: Dictionary, step: int, n_rows: int) -> Float[Tensor, "rows d_in"]:
    """The `n_rows` training rows of one step, fewer where the source has fewer, as `d` takes them."""
    return source.at_most(n_rows, "train", FIRST_STEP + step).acts.to(d.W_dec)


def taken(source: Source, n_rows: int) -> int:
    """How many rows :func:`encoder_rows` gives where `n_rows` are asked for."""
    return min(n_rows, source.n_rows["train"] or n_rows)


def mean_norm(d: Dictionary, source: Source) -> float:
    """The mean of ``||x - b_dec||`` over training rows."""
    return float((encoder_rows(source, d, 0, N_NORM) - d.b_dec).norm(dim=-1).mean())
