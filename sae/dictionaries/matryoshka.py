"""The Matryoshka dictionary: nested dictionaries, each made of the first latents of the next.

    loss = mean over levels l of  sum_d (z[:w_l] W_dec[:w_l] + b_dec - x)^2  (+ the penalty or AuxK),
    averaged over the batch

for widths ``w_1 < ... < w_L = n_latents``, so that specific features of a later level do not absorb general features of
an earlier one. Codes are those of BatchTopK, or of ReLU with an L1 penalty. Bussmann, Nabeshima, Karvonen and Nanda
2025, 'Learning multi-level features with Matryoshka sparse autoencoders', who sum over levels and add a level without
latents; the mean keeps the meaning of `l1`. With one level it is BatchTopK, or ReLU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor

from sae.architecture import (
    Architecture,
    AuxK,
    DictionaryConfig,
    LargestOfBatch,
    Positive,
    check_k,
    check_levels,
    exactly_one,
    raw_units,
)
from sae.dictionary import Dictionary
from sae.numerics.thresholding import above
from sae.registry import UserError


class Config(DictionaryConfig):
    """Settings of a Matryoshka dictionary: over BatchTopK with `k`, or over ReLU with `l1` or `l0`."""

    kind: Literal["matryoshka"] = "matryoshka"
    levels: tuple[int, ...] = ()
    """The ascending widths of the nested dictionaries, the last of them `n_latents`; a sixteenth, an eighth, a quarter,
    a half and all of the latents if unset."""
    k: int | None = Field(default=None, gt=0)
    """The mean number of active latents per sample, for BatchTopK."""
    l1: float | None = Field(default=None, ge=0)
    """The weight of the L1 penalty, for ReLU."""
    l0: float | None = Field(default=None, gt=0)
    """The target for the mean number of active latents, for ReLU, reached by a controller that sets the weight."""
    aux_coefficient: float = Field(default=1 / 32, ge=0)
    """With `k`: the weight of the auxiliary loss for dead latents (:class:`AuxK`); 0 resamples them instead."""
    aux_k: int | None = Field(default=None, gt=0)
    """The number of dead latents per sample in the auxiliary loss; half of `d_in` if unset."""
    detach: bool = False
    """Whether the reconstruction of each level but the last is detached from the level that continues it, so that the
    loss of a level trains only the latents that the level adds; that of the last level trains all."""

    later: ClassVar[frozenset[str]] = frozenset({"detach"})
    member_axes: ClassVar[tuple[str, ...]] = ("l1", "l0")

    @model_validator(mode="before")
    @classmethod
    def _default_levels(cls, data: Any) -> Any:
        if isinstance(data, dict) and not data.get("levels") and isinstance(n := data.get("n_latents"), int):
            return {**data, "levels": tuple(sorted({max(1, n // part) for part in (16, 8, 4, 2, 1)}))}
        return data

    @model_validator(mode="after")
    def _fits(self) -> Config:
        check_levels(self.levels, self.n_latents)
        if self.k is None:
            exactly_one("l1", self.l1, "l0", self.l0)
        elif self.l1 is not None or self.l0 is not None:
            raise UserError(f"k = {self.k}: {'l0' if self.l1 is None else 'l1'} is set too; set one of k, l1 and l0")
        else:
            check_k("k", self.k, self.n_latents)
        return self

    def architecture(self, share: float = 1.0) -> MatryoshkaArchitecture:
        selection = Positive() if self.k is None else LargestOfBatch(self.k)
        dead_latent_loss = AuxK(self.aux_coefficient, self.aux_k) if self.aux_coefficient and self.k else None
        return MatryoshkaArchitecture(
            levels=self.levels, selection=selection, dead_latent_loss=dead_latent_loss, detach=self.detach
        )

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
    """``z = pre [pre > threshold]``."""

    kind: ClassVar[str] = "matryoshka"
    independent_latents: ClassVar[bool] = True

    threshold: Float[Tensor, " n_latents"]
    """The value that a pre-activation must exceed to be a code."""
    levels: Sequence[int] = ()
    """The widths of the nested dictionaries: the first ``levels[0]`` latents are the coarsest one."""

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch n_latents"]:
        return above(self.centred(x) @ self.W_enc + self.b_enc, self.threshold)

    def settings(self) -> dict[str, Any]:
        return {"levels": list(self.levels)}

    def part_settings(self, latents: Int[Tensor, " kept"]) -> dict[str, Any]:
        """The levels by the number of their latents that are kept. Raises `UserError` where these do not ascend."""
        if bool((latents.diff() < 0).any()):
            raise UserError(
                "latents: those of a 'matryoshka' dictionary are nested in their order; give them ascending"
            )
        widths = (int((latents < width).sum()) for width in self.levels)
        return {"levels": tuple(sorted({width for width in widths if width}))}


KIND = Matryoshka


@dataclass(frozen=True, kw_only=True)
class MatryoshkaArchitecture(Architecture):
    """Nested levels, over a selection or with an L1 penalty."""

    def penalty(self, u: Tensor) -> Tensor:
        return u

    def slope(self, u: Tensor) -> float:
        return 1.0

    def build(self, tensors: Mapping[str, Tensor], input_scale: float) -> Matryoshka:
        threshold = tensors["bar"].expand_as(tensors["b_enc"])
        return Matryoshka(**raw_units({**tensors, "threshold": threshold}, input_scale), levels=self.levels)
