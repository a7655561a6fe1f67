"""The matching-pursuit dictionary: codes are found one after the other, each in what the others have left.

    r = x - b_dec;   k times:  j = argmax_j r . W_dec[j],   a = ReLU(r . W_dec[j]),   z_j += a,   r -= a W_dec[j]
    loss = sum_d r^2,    averaged over the batch

Mallat and Zhang 1993; Costa et al. 2025, 'From flat to hierarchical: extracting sparse representations with matching
pursuit'. There is no encoder beside the decoder, whose rows are held at norm one. It reconstructs better than one layer
can, by fitting what superposition leaves as well: judge it by recovery.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from sae.architecture import Architecture, DictionaryConfig, Pursuit, raw_units
from sae.dictionary import Dictionary
from sae.numerics.sparse_coding import pursue
from sae.registry import UserError


class Config(DictionaryConfig):
    """Settings of a matching-pursuit dictionary."""

    kind: Literal["matching_pursuit"] = "matching_pursuit"
    k: int = Field(gt=0)

    @model_validator(mode="after")
    def _k_fits(self) -> Config:
        if self.k > self.n_latents:
            raise UserError(f"k = {self.k} is more than n_latents = {self.n_latents}")
        return self

    def architecture(self, share: float = 1.0) -> PursuitArchitecture:
        return PursuitArchitecture(selection=Pursuit(self.k))


@dataclass(frozen=True, eq=False)
class MatchingPursuit(Dictionary):
    """Codes by `k` steps of matching pursuit; `W_enc` is the decoder's transpose and `b_enc` zero.

    A row may be done before: where its residual is shorter than `tolerance`, or, with `until_stable`, after a step that
    brought no new latent. That is how SAELens stops; what is trained here takes all of its steps.
    """

    kind: ClassVar[str] = "matching_pursuit"

    k: int = 1
    tolerance: float = 0.0
    until_stable: bool = False

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch n_latents"]:
        r = (x - self.b_dec).flatten(0, -2) if x.ndim > 1 else (x - self.b_dec)[None]
        z, going = r.new_zeros(len(r), self.n_latents), torch.ones_like(r[:, :1], dtype=torch.bool)
        for taken in pursue(r, self.W_enc, self.W_dec, self.k):
            latent, amount = taken.latent[:, None], taken.amount[:, None]
            if self.tolerance or self.until_stable:
                amount = amount * going
                if self.until_stable:
                    going = going & (amount > 0) & (z.gather(1, latent) == 0)
                going = going & (taken.after.norm(dim=-1, keepdim=True) >= self.tolerance)
            z.scatter_add_(1, latent, amount)
        return z.view(*x.shape[:-1], self.n_latents)

    def multiply_adds(self) -> int:
        return self.k * self.d_in * self.n_latents

    def settings(self) -> dict[str, float | int | str | bool]:
        early: dict[str, float | int | str | bool] = {"tolerance": self.tolerance, "until_stable": self.until_stable}
        return {"k": self.k} | {name: value for name, value in early.items() if value}


KIND = MatchingPursuit
_ONE = Pursuit(1)


@dataclass(frozen=True, kw_only=True)
class PursuitArchitecture(Architecture):
    """The way in which codes are found is all that it has."""

    selection: Pursuit = _ONE

    def build(self, tensors: Mapping[str, Tensor], input_scale: float) -> MatchingPursuit:
        units = raw_units(tensors, input_scale)
        units |= {"W_enc": units["W_dec"].T.contiguous(), "b_enc": torch.zeros_like(units["b_enc"])}
        return MatchingPursuit(**units, k=self.selection.k)
