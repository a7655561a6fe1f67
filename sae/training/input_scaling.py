"""Scaling of the activations during training, and its inverse, which is folded into the weights.

    x' = s x,    s = sqrt(d_in) / E||x||         `sqrt_d`: a penalty weight means the same on every source
    x' = x T,    T = (C + e tr(C) / d)^(-1/2)    `whiten`: C the covariance; every direction has the same variance
    x' = x                                       `none`

A target y is scaled likewise, by a factor of its own. Trained dictionaries take and return raw activations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sae.registry import UserError
from sae.source import Source
from sae.training.prefetch import Pair

Scaling = Literal["sqrt_d", "none", "whiten"]
_FLOOR = 1e-3
"""e: the share of the mean variance that is added to the variance of every direction."""


@dataclass(frozen=True)
class InputScaling:
    """The scaling of inputs and targets."""

    scale: float = 1.0
    """The factor s of the input."""
    target_scale: float = 1.0
    """The factor of the target."""
    whitening: Float[Tensor, "d_in d_in"] | None = None
    """The matrix T, which replaces `scale`; None unless whitened."""

    def __call__(self, pair: Pair) -> Pair:
        """Scales raw activations."""
        x = pair.x * self.scale if self.whitening is None else pair.x @ self.whitening
        return Pair(x, x if pair.y is pair.x else pair.y * self.target_scale)

    @property
    def card_value(self) -> float | str:
        """The entry of a dictionary's card: the factor of the input, or ``"whitened"``."""
        return self.scale if self.whitening is None else "whitened"

    def fold(self, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], float]:
        """Folds everything but one factor into the tensors of a member; returns them and that factor.

        An encoder that subtracts a `centre` c is rewritten: ``(x - c) W + b = (x - b_dec) W + (b + (b_dec - c) W)``.
        """
        folded = dict(tensors)
        if self.whitening is not None:
            back = torch.linalg.inv(self.whitening.cpu().double())
            forth = self.whitening.cpu().double()
            folded["W_enc"] = (forth @ tensors["W_enc"].double()).float()
            folded["W_dec"] = (tensors["W_dec"].double() @ back).float()
            folded["b_dec"] = (tensors["b_dec"].double() @ back).float()
            return folded, 1.0
        if "centre" in folded:
            ratio = self.scale / self.target_scale
            folded["W_dec"], folded["b_dec"] = folded["W_dec"] * ratio, folded["b_dec"] * ratio
            folded["b_enc"] = folded["b_enc"] + (folded["b_dec"] - folded.pop("centre")) @ folded["W_enc"]
        return folded, self.scale

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of a checkpoint."""
        scales = torch.tensor([self.scale, self.target_scale], dtype=torch.float64)
        return {"scales": scales} | ({} if self.whitening is None else {"whitening": self.whitening})

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> InputScaling:
        """The scaling of a checkpoint, from :meth:`tensors`."""
        scale, target_scale = tensors["scales"].tolist()
        return cls(scale, target_scale, tensors.get("whitening"))


@dataclass(frozen=True)
class InputStatistics:
    """Statistics of the first training samples, for scaling and initial values."""

    scaling: InputScaling
    """The scaling."""
    rows: Float[Tensor, "rows d_in"]
    """The scaled samples."""
    centre: Float[Tensor, " d_in"]
    """The mean or geometric median of the scaled samples."""
    target_centre: Float[Tensor, " d_in"]
    """The mean or geometric median of the scaled targets."""

    @classmethod
    def measure(cls, source: Source, n_samples: int, batch_size: int, kind: Scaling, median: bool) -> InputStatistics:
        """Measures the first `n_samples`, rounded up to batches. Raises `UserError` where whitening meets targets."""
        batches = [source.batch(step, batch_size) for step in range(-(-n_samples // batch_size))]
        x = torch.cat([batch.acts.float().cpu() for batch in batches])
        y = torch.cat([batch.wanted.float().cpu() for batch in batches]) if source.has_targets else x
        if kind == "whiten" and source.has_targets:
            raise UserError(
                'train.input_scale = "whiten": works for autoencoders only, and this source has targets; use "sqrt_d"'
            )
        scaling = InputScaling(_scale(x, kind), _scale(y, kind), _whitening(x) if kind == "whiten" else None)
        x, y = scaling(Pair(x, y))
        centre = geometric_median if median else _mean
        return cls(scaling, x, centre(x), centre(x if y is x else y))


def _scale(x: Float[Tensor, "rows d_in"], kind: Scaling) -> float:
    norm = float(x.double().norm(dim=-1).mean())
    return x.shape[1] ** 0.5 / norm if kind == "sqrt_d" and norm > 0 else 1.0


def _mean(x: Float[Tensor, "rows d_in"]) -> Float[Tensor, " d_in"]:
    return x.double().mean(0).float()


def _whitening(x: Float[Tensor, "rows d_in"]) -> Float[Tensor, "d_in d_in"]:
    centred = x.double() - x.double().mean(0)
    covariance = centred.T @ centred / len(x)
    values, vectors = torch.linalg.eigh(covariance)
    values = values.clamp_min(0) + _FLOOR * values.mean()
    return (vectors * values**-0.5 @ vectors.T).float()


def geometric_median(x: Float[Tensor, "rows d_in"], steps: int = 100) -> Float[Tensor, " d_in"]:
    """The point with the smallest mean distance from the rows, by Weiszfeld's iteration; robust against outliers."""
    x = x.double()
    centre = x.mean(0)
    for _ in range(steps):
        weight = 1 / (x - centre).norm(dim=-1).clamp_min(1e-9)
        moved = (weight[:, None] * x).sum(0) / weight.sum()
        if float((moved - centre).norm()) <= 1e-9 * float(moved.norm()):
            break
        centre = moved
    return centre.float()
