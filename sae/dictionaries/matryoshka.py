"""The Matryoshka dictionary: its first latents are a dictionary by themselves, and so are the first of those.

    loss = mean over levels l of  sum_d (z[:w_l] W_dec[:w_l] + b_dec - x)^2  (+ the penalty or AuxK),
    averaged over the batch

for widths ``w_1 < ... < w_L = n_latents``, so that a general feature in an early level is not absorbed by a special one
in a later. Codes are those of BatchTopK, or of ReLU with an L1 penalty. Bussmann, Nabeshima, Karvonen and Nanda 2025,
'Learning multi-level features with Matryoshka sparse autoencoders', who sum over levels and add one of no latents; a
mean keeps the meaning of `l1`. With one level it is BatchTopK, or ReLU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from sae.architecture import Architecture, AuxK, DictionaryConfig, LargestOfBatch, Positive, exactly_one, raw_units
from sae.dictionary import Dictionary
from sae.numerics.thresholding import above
from sae.registry import UserError


class Config(DictionaryConfig):
    """Settings of a Matryoshka dictionary: over BatchTopK with `k`, or over ReLU with `l1` or `l0`.

    `levels` are widths, the last of which is `n_latents`; unset, a sixteenth, an eighth, ... and all.
    """

    kind: Literal["matryoshka"] = "matryoshka"
    levels: tuple[int, ...] = ()
    k: int | None = Field(None, gt=0)
    l1: float | None = Field(None, ge=0)
    l0: float | None = Field(None, gt=0)
    aux_coefficient: float = Field(1 / 32, ge=0)
    aux_k: int | None = Field(None, gt=0)

    member_axes: ClassVar[tuple[str, ...]] = ("l1", "l0")

    @model_validator(mode="before")
    @classmethod
    def _levels_by_default(cls, given: Any) -> Any:
        if isinstance(given, dict) and not given.get("levels") and isinstance(n := given.get("n_latents"), int):
            return {**given, "levels": tuple(sorted({max(1, n // part) for part in (16, 8, 4, 2, 1)}))}
        return given

    @model_validator(mode="after")
    def _fits(self) -> Config:
        if self.levels[-1] != self.n_latents or list(self.levels) != sorted({*self.levels}) or self.levels[0] < 1:
            raise UserError(f"levels = {list(self.levels)}: widths must rise to n_latents = {self.n_latents}")
        if self.k is None:
            exactly_one("l1", self.l1, "l0", self.l0)
        elif self.l1 is not None or self.l0 is not None:
            raise UserError(f"k = {self.k} with {'l0' if self.l1 is None else 'l1'}: give one of k, l1 and l0")
        elif self.k > self.n_latents:
            raise UserError(f"k = {self.k} is more than n_latents = {self.n_latents}")
        return self

    def architecture(self, share: float = 1.0) -> MatryoshkaArchitecture:
        selection = Positive() if self.k is None else LargestOfBatch(self.k)
        dead_latent_loss = AuxK(self.aux_coefficient, self.aux_k) if self.aux_coefficient and self.k else None
        return MatryoshkaArchitecture(levels=self.levels, selection=selection, dead_latent_loss=dead_latent_loss)

    @property
    def coefficient(self) -> float:
        return (1.0 if self.l1 is None else self.l1) if self.k is None else 0.0

    @property
    def target_l0(self) -> float | None:
        return self.l0

    @property
    def resampled(self) -> bool:
        return self.k is None or self.aux_coefficient == 0


@dataclass(frozen=True, eq=False)
class Matryoshka(Dictionary):
    """``z = pre [pre > threshold]``; the first ``levels[0]`` latents are the coarsest dictionary."""

    kind: ClassVar[str] = "matryoshka"

    threshold: Float[Tensor, " n_latents"]
    levels: Sequence[int] = ()

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch n_latents"]:
        return above((x - self.b_dec) @ self.W_enc + self.b_enc, self.threshold)

    def settings(self) -> dict[str, Any]:
        return {"levels": list(self.levels)}


KIND = Matryoshka


@dataclass(frozen=True, kw_only=True)
class MatryoshkaArchitecture(Architecture):
    """The levels, over a selection or under an L1 penalty."""

    def penalty(self, u: Tensor) -> Tensor:
        return u

    def slope(self, u: Tensor) -> float:
        return 1.0

    def build(self, tensors: Mapping[str, Tensor], input_scale: float) -> Matryoshka:
        threshold = tensors["bar"].expand_as(tensors["b_enc"])
        return Matryoshka(**raw_units({**tensors, "threshold": threshold}, input_scale), levels=self.levels)
