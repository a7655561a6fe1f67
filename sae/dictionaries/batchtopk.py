"""The BatchTopK dictionary: k codes per sample on average, so that single samples may have more or fewer.

    z = pre [pre among the k * batch largest of the batch],    pre = ReLU((x - b_dec) W_enc + b_enc)
    loss = sum_d (x_hat - x)^2 + AuxK,    averaged over the batch

Bussmann, Leask and Nanda 2024, 'BatchTopK sparse autoencoders'. A trained dictionary does not depend on the batch: its
codes are the pre-activations above a threshold, the moving average of the smallest code that each training batch kept.
Decoder rows are held at norm one. On a batch of one it is TopK.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from sae.architecture import Architecture, LargestOfBatch, SelectingConfig, raw_units
from sae.dictionary import Dictionary
from sae.numerics.thresholding import above


class Config(SelectingConfig):
    """Settings of a BatchTopK dictionary."""

    kind: Literal["batchtopk"] = "batchtopk"

    def architecture(self, share: float = 1.0) -> BatchTopKArchitecture:
        return BatchTopKArchitecture(selection=LargestOfBatch(self.k_at(share)), dead_latent_loss=self.dead_latent_loss)


@dataclass(frozen=True, eq=False)
class BatchTopK(Dictionary):
    """``z = pre [pre > threshold]``."""

    kind: ClassVar[str] = "batchtopk"
    independent_latents: ClassVar[bool] = True

    threshold: Float[Tensor, " n_latents"]
    """The value that a pre-activation must exceed to be a code."""

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch n_latents"]:
        return above(self.centred(x) @ self.W_enc + self.b_enc, self.threshold)

    def settings(self) -> dict[str, float | int | str | bool]:
        return {}


KIND = BatchTopK
_ONE = LargestOfBatch(1)


@dataclass(frozen=True, kw_only=True)
class BatchTopKArchitecture(Architecture):
    """A selection without a penalty."""

    selection: LargestOfBatch = _ONE
    """The k largest pre-activations of a batch, on average per sample."""

    def build(self, tensors: Mapping[str, Tensor], input_scale: float) -> BatchTopK:
        threshold = tensors["bar"].expand_as(tensors["b_enc"])
        return BatchTopK(**raw_units({**tensors, "threshold": threshold}, input_scale))
