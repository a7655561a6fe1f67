"""The matching-pursuit dictionary: codes are found one after the other, each in the residual of those before.

    r = x - b_dec;   k times:  j = argmax_j r . W_dec[j],   a = ReLU(r . W_dec[j]),   z_j += a,   r -= a W_dec[j]
    loss = sum_d r^2,    averaged over the batch

Mallat and Zhang 1993; Costa et al. 2025, 'From flat to hierarchical: extracting sparse representations with matching
pursuit'. The encoder is the decoder's transpose; decoder rows are held at norm one. It reconstructs better than one
layer can, because later steps also fit the interference of superposed features, so reconstruction overrates it:
compare by recovery.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from sae.architecture import Architecture, DictionaryConfig, Pursuit, check_k, raw_units
from sae.dictionary import Dictionary
from sae.numerics.sparse_coding import pursue


class Config(DictionaryConfig):
    """Settings of a matching-pursuit dictionary."""

    kind: Literal["matching_pursuit"] = "matching_pursuit"
    k: int = Field(gt=0)
    """The number of steps, and so the largest number of active latents per sample."""

    @model_validator(mode="after")
    def _k_fits(self) -> Config:
        check_k("k", self.k, self.n_latents)
        return self

    def architecture(self, share: float = 1.0) -> PursuitArchitecture:
        return PursuitArchitecture(selection=Pursuit(self.k))


@dataclass(frozen=True, eq=False)
class MatchingPursuit(Dictionary):
    """Codes by `k` steps of matching pursuit; `W_enc` is the decoder's transpose and `b_enc` zero.

    `tolerance` and `until_stable` stop a sample early, as SAELens does; dictionaries trained here take all `k` steps.
    """

    kind: ClassVar[str] = "matching_pursuit"

    k: int = 1
    """The largest number of steps per sample."""
    tolerance: float = 0.0
    """A sample stops once the norm of its residual is below this."""
    until_stable: bool = False
    """Whether a sample stops after a step that adds no new latent."""

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch n_latents"]:
        r = self.centred(x).flatten(0, -2) if x.ndim > 1 else self.centred(x)[None]
        z, active = r.new_zeros(len(r), self.n_latents), torch.ones_like(r[:, :1], dtype=torch.bool)
        for taken in pursue(r, self.W_enc, self.W_dec, self.k):
            latent, amount = taken.latent[:, None], taken.amount[:, None]
            if self.tolerance or self.until_stable:
                amount = amount * active
                if self.until_stable:
                    active = active & (amount > 0) & (z.gather(1, latent) == 0)
                active = active & (taken.after.norm(dim=-1, keepdim=True) >= self.tolerance)
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
    """Codes by pursuit, without a penalty."""

    selection: Pursuit = _ONE
    """The number of pursuit steps."""

    def build(self, tensors: Mapping[str, Tensor], input_scale: float) -> MatchingPursuit:
        units = raw_units(tensors, input_scale)
        units |= {"W_enc": units["W_dec"].T.contiguous(), "b_enc": torch.zeros_like(units["b_enc"])}
        return MatchingPursuit(**units, k=self.selection.k)
