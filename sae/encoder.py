"""Interface of encoders: other ways to compute the codes of a decoder than the dictionary's own layer.

Each file of ``sae/encoders/`` has a ``Config``, which turns a dictionary into one with the same directions and another
encoder; where that is a kind of dictionary of its own, ``KIND`` is the class that :func:`sae.load` builds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from sae.dictionary import Dictionary
from sae.numerics.fit_cost import FitCost
from sae.registry import KindSettings, UserError
from sae.source import Source

N_NORM = 4096
"""Training samples on which the mean activation norm is measured."""
FIRST_STEP = 2**30
"""The step at which the training samples of encoders begin, far from the steps that trained the dictionary."""


class EncoderConfig(KindSettings, ABC):
    """Settings of one kind of encoder."""

    interface: ClassVar[str] = "encoders"

    @abstractmethod
    def fit(self, d: Dictionary, source: Source | None, seed: int) -> Dictionary:
        """The dictionary `d` with this encoder. Uses only training samples of `source`; raises `UserError` where they
        are needed and `source` is None."""

    def fit_cost(self, d: Dictionary, source: Source | None) -> FitCost:
        """The training cost of :meth:`fit`; zero where it needs no samples."""
        return FitCost()


class LassoConfig(EncoderConfig):
    """Settings of an encoder that solves a non-negative lasso, or that learns from one."""

    l1: float = Field(0.01, ge=0)
    """Weight of the penalty, in `units`."""
    threshold: float = Field(0.03, ge=0)
    """Codes below this are set to zero, in `units`."""
    units: Literal["norm", "raw"] = "norm"
    """``norm``: the mean of ``||x - b_dec||`` over training samples; ``raw``: those of the activations, which needs no
    samples."""
    n_iterations: int = Field(200, gt=0)
    """The most iterations for a sample."""
    tolerance: float = Field(1e-3, ge=0)
    """A sample has converged when no code changes by more than this share of its largest code."""

    def raw(self, d: Dictionary, source: Source | None) -> tuple[float, float]:
        """`l1` and `threshold` in units of the activations."""
        if self.units == "raw":
            return self.l1, self.threshold
        norm = mean_norm(d, needed(source, "to measure the unit of l1 (or units = 'raw')"))
        return self.l1 * norm, self.threshold * norm

    def fit_cost(self, d: Dictionary, source: Source | None) -> FitCost:
        """The cost of measuring the unit."""
        n = 0 if source is None or self.units == "raw" else taken(source, N_NORM)
        return FitCost(n, n, n * d.d_in)


class OneLayer(NamedTuple):
    """An encoder of one layer: ``pre = (x - b_dec) W_enc + b_enc`` above a threshold, the largest of them."""

    W_enc: Float[Tensor, "d_in n_latents"]
    """Its weights."""
    b_enc: Float[Tensor, " n_latents"]
    """Its biases."""
    threshold: Float[Tensor, " n_latents"]
    """What its pre-activations must exceed."""
    k: int
    """The most latents that it keeps."""


def one_layer(d: Dictionary, what: str) -> OneLayer:
    """The encoder of `d`. Raises `UserError` where it is not one layer; `what` needs one."""
    tensors, settings = d.tensors(), d.settings()
    threshold = tensors.pop("threshold", torch.zeros_like(d.b_enc))
    k = int(settings.pop("k", d.n_latents))
    settings.pop("levels", None)
    if d.multiply_adds() != d.d_in * d.n_latents or set(tensors) != {"W_enc", "W_dec", "b_enc", "b_dec"} or settings:
        raise UserError(
            f"{what}: needs a one-layer encoder, which a {d.kind!r} dictionary does not have; use encoder 'fista' "
            "with debias = true, or 'stagewise' with start = 'empty'"
        )
    return OneLayer(d.W_enc, d.b_enc, threshold, min(k, d.n_latents))


def needed(source: Source | None, why: str) -> Source:
    """The source. Raises `UserError` that says what its samples are needed for where it is None."""
    if source is None:
        raise UserError(f"encoder: training samples are needed {why}; give x, a matrix [rows, d_in] or a source")
    return source


def encoder_rows(source: Source, d: Dictionary, step: int, n_rows: int) -> Float[Tensor, "rows d_in"]:
    """The `n_rows` training samples of one step (fewer where the source has fewer), in the device and precision of
    `d`."""
    return source.at_most(n_rows, "train", FIRST_STEP + step).acts.to(d.W_dec)


def taken(source: Source, n_rows: int) -> int:
    """How many samples :func:`encoder_rows` returns for `n_rows`."""
    return min(n_rows, source.n_rows["train"] or n_rows)


def mean_norm(d: Dictionary, source: Source) -> float:
    """The mean of ``||x - b_dec||`` over training samples."""
    return float((encoder_rows(source, d, 0, N_NORM) - d.b_dec).norm(dim=-1).mean())
