"""The TopK dictionary: the k largest pre-activations of a sample are its codes, where positive.

    z = TopK(ReLU((x - b_dec) W_enc + b_enc)),    x_hat = z W_dec + b_dec
    loss = sum_d (x_hat - x)^2 + AuxK,    averaged over the batch

Makhzani and Frey 2013; Gao et al. 2024, 'Scaling and evaluating sparse autoencoders'. Decoder rows are held at
norm one. With ``k = n_latents`` it is the ReLU dictionary without a penalty.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sae.architecture import Architecture, Largest, SelectingConfig, raw_units
from sae.dictionary import Dictionary
from sae.numerics.thresholding import largest


class Config(SelectingConfig):
    """Settings of a TopK dictionary."""

    kind: Literal["topk"] = "topk"

    def architecture(self, share: float = 1.0) -> TopKArchitecture:
        return TopKArchitecture(selection=Largest(self.k_at(share)), dead_latent_loss=self.dead_latent_loss)


@dataclass(frozen=True, eq=False)
class TopK(Dictionary):
    """``z = TopK(ReLU((x - b_dec) W_enc + b_enc))``."""

    kind: ClassVar[str] = "topk"

    k: int = 1
    """The number of codes kept per sample."""

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch n_latents"]:
        return largest(torch.relu(self.centred(x) @ self.W_enc + self.b_enc), self.k)

    def settings(self) -> dict[str, float | int | str | bool]:
        return {"k": self.k}


KIND = TopK
_ONE = Largest(1)


@dataclass(frozen=True, kw_only=True)
class TopKArchitecture(Architecture):
    """A selection without a penalty."""

    selection: Largest = _ONE
    """The k largest pre-activations of each sample."""

    def build(self, tensors: Mapping[str, Tensor], input_scale: float) -> TopK:
        return TopK(**raw_units(tensors, input_scale), k=self.selection.k)
