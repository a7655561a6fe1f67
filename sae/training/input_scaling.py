"""The units that dictionaries are trained in, and the way back to raw activations.

    x' = s x,    s = sqrt(d_in) / E||x||         `sqrt_d`: one penalty means the same on every source
    x' = x T,    T = (C + e tr(C) / d)^(-1/2)    `whiten`: C the covariance, so that every direction is equally loud
    x' = x                                       `none`

and a target y likewise by its own factor. Everything is folded into the dictionary in the end: nobody who reads one
needs to know.
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
"""e: how much of the mean variance is added to every direction's before the root is taken."""


@dataclass(frozen=True)
class InputScaling:
    """Factors of the input and of what is reconstructed; `whitening` takes the place of the first where it is given."""

    scale: float = 1.0
    target_scale: float = 1.0
    whitening: Float[Tensor, "d_in d_in"] | None = None

    def __call__(self, pair: Pair) -> Pair:
        """Rows in these units."""
        x = pair.x * self.scale if self.whitening is None else pair.x @ self.whitening
        return Pair(x, x if pair.y is pair.x else pair.y * self.target_scale)

    @property
    def card_value(self) -> float | str:
        """The factor of the input for a card, or that there was a matrix."""
        return self.scale if self.whitening is None else "whitened"

    def fold(self, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], float]:
        """Tensors of a member as those of a dictionary that reads and gives back rows of one scale, and that scale.

        With a `centre` c in place of b_dec in the encoder: ``(x - c) W + b = (x - b_dec) W + (b + (b_dec - c) W)``.
        """
        given = dict(tensors)
        if self.whitening is not None:
            back = torch.linalg.inv(self.whitening.cpu().double())
            forth = self.whitening.cpu().double()
            given["W_enc"] = (forth @ tensors["W_enc"].double()).float()
            given["W_dec"] = (tensors["W_dec"].double() @ back).float()
            given["b_dec"] = (tensors["b_dec"].double() @ back).float()
            return given, 1.0
        if "centre" in given:
            ratio = self.scale / self.target_scale
            given["W_dec"], given["b_dec"] = given["W_dec"] * ratio, given["b_dec"] * ratio
            given["b_enc"] = given["b_enc"] + (given["b_dec"] - given.pop("centre")) @ given["W_enc"]
        return given, self.scale

    def tensors(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        scales = torch.tensor([self.scale, self.target_scale], dtype=torch.float64)
        return {"scales": scales} | ({} if self.whitening is None else {"whitening": self.whitening})

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> InputScaling:
        scale, target_scale = tensors["scales"].tolist()
        return cls(scale, target_scale, tensors.get("whitening"))


@dataclass(frozen=True)
class InputStatistics:
    """What the first training rows tell: the units, and in them the rows and what they centre on."""

    scaling: InputScaling
    rows: Float[Tensor, "rows d_in"]
    centre: Float[Tensor, " d_in"]
    target_centre: Float[Tensor, " d_in"]

    @classmethod
    def measure(cls, source: Source, n_rows: int, batch_size: int, how: Scaling, median: bool) -> InputStatistics:
        batches = [source.batch(step, batch_size) for step in range(-(-n_rows // batch_size))]
        x = torch.cat([batch.acts.float().cpu() for batch in batches])
        y = torch.cat([batch.wanted.float().cpu() for batch in batches]) if source.has_targets else x
        if how == "whiten" and source.has_targets:
            raise UserError('train.input_scale = "whiten" is for autoencoders: this source has targets')
        units = InputScaling(_scale(x, how), _scale(y, how), _whitening(x) if how == "whiten" else None)
        x, y = units(Pair(x, y))
        centre = geometric_median if median else _mean
        return cls(units, x, centre(x), centre(x if y is x else y))


def _scale(x: Float[Tensor, "rows d_in"], how: Scaling) -> float:
    norm = float(x.double().norm(dim=-1).mean())
    return x.shape[1] ** 0.5 / norm if how == "sqrt_d" and norm > 0 else 1.0


def _mean(x: Float[Tensor, "rows d_in"]) -> Float[Tensor, " d_in"]:
    return x.double().mean(0).float()


def _whitening(x: Float[Tensor, "rows d_in"]) -> Float[Tensor, "d_in d_in"]:
    centred = x.double() - x.double().mean(0)
    covariance = centred.T @ centred / len(x)
    values, vectors = torch.linalg.eigh(covariance)
    values = values.clamp_min(0) + _FLOOR * values.mean()
    return (vectors * values**-0.5 @ vectors.T).float()


def geometric_median(x: Float[Tensor, "rows d_in"], steps: int = 100) -> Float[Tensor, " d_in"]:
    """The point with the least mean distance from the rows, by Weiszfeld's iteration; outliers do not drag it along."""
    x = x.double()
    centre = x.mean(0)
    for _ in range(steps):
        weight = 1 / (x - centre).norm(dim=-1).clamp_min(1e-9)
        moved = (weight[:, None] * x).sum(0) / weight.sum()
        if float((moved - centre).norm()) <= 1e-9 * float(moved.norm()):
            break
        centre = moved
    return centre.float()
