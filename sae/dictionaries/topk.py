"""The TopK dictionary: the k largest pre-activations of a row are its codes, as far as they are positive.

    z = TopK(ReLU((x - b_dec) W_enc + b_enc)),    x_hat = z W_dec + b_dec
    loss = sum_d (x_hat - x)^2,    averaged over the batch

Makhzani and Frey 2013; Gao et al. 2024, 'Scaling and evaluating sparse autoencoders'. Decoder rows are held at
norm one. With ``k = n_latents`` it is the ReLU dictionary without a penalty.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from sae.dictionary import Dictionary
from sae.kernels import Largest, Selection
from sae.stack import Architecture, DictionaryConfig, raw_units


class Config(DictionaryConfig):
    """Settings of a TopK dictionary."""

    kind: Literal["topk"] = "topk"
    k: int = Field(gt=0)

    @model_validator(mode="after")
    def _k_fits(self) -> Config:
        if self.k > self.n_latents:
            raise ValueError(f"k = {self.k} is more than n_latents = {self.n_latents}")
        return self

    def architecture(self) -> TopKArchitecture:
        return TopKArchitecture(Largest(self.k))

    @property
    def coefficient(self) -> float:
        return 0.0


@dataclass(frozen=True, eq=False)
class TopK(Dictionary):
    """``z = TopK(ReLU((x - b_dec) W_enc + b_enc))``."""

    kind: ClassVar[str] = "topk"

    k: int = 1

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch n_latents"]:
        z = torch.relu((x - self.b_dec) @ self.W_enc + self.b_enc)
        largest = z.topk(min(self.k, self.n_latents), dim=-1)
        return torch.zeros_like(z).scatter(-1, largest.indices, largest.values)

    def settings(self) -> dict[str, float | int | str | bool]:
        return {"k": self.k}


KIND = TopK


@dataclass(frozen=True)
class TopKArchitecture(Architecture):
    """The selection is all that it has; there is no penalty."""

    selection: Selection
    unit_rows: bool = True

    def penalty(self, u: Tensor) -> Tensor:
        return torch.zeros_like(u)

    def slope(self, u: Tensor) -> float:
        return 0.0

    def build(self, tensors: Mapping[str, Tensor], input_scale: float) -> TopK:
        assert isinstance(self.selection, Largest)
        return TopK(**raw_units(tensors, input_scale), k=self.selection.k)
