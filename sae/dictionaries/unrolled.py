"""A dictionary whose encoder takes a step of iterative shrinkage before it chooses its codes, trained through the step.

    p = (x - b_dec) W_enc + b_enc            z_0 = p [p among the k * batch largest of the batch]
    p' = p - step (z_0 W_dec + b_dec - x) W_dec^T
    z = p' [p' among the k * batch largest of the batch]
    loss = mean over levels of sum_d (z[:w_l] W_dec[:w_l] + b_dec - x)^2 + AuxK,    averaged over the batch

One layer reads a sample along directions that are not orthogonal: each latent sees the features of the others. After
the step it sees its own part of what the first codes leave unexplained, so that latents compete before they are chosen.
Gregor and LeCun 2010, 'Learning fast approximations of sparse coding', with the decoder in place of the learned
matrices; a search on SynthSAEBench by its author, D. Chanin, trained nested dictionaries through it. A trained
dictionary does not depend on the batch: both selections are thresholds, moving averages over training batches. Dead
latents are trained through `p` (:class:`AuxK`). Decoder rows are held at norm one. With ``step = 0`` it is BatchTopK,
or Matryoshka with `levels`. Encoding costs three products in place of one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from sae.architecture import Architecture, LargestOfBatch, SelectingConfig, check_levels, raw_units
from sae.dictionary import Dictionary
from sae.numerics.thresholding import above
from sae.registry import UserError


class Config(SelectingConfig):
    """Settings of a dictionary with a step of iterative shrinkage in its encoder."""

    kind: Literal["unrolled"] = "unrolled"
    step: float = Field(default=0.3, gt=0)
    """The size of the step."""
    levels: tuple[int, ...] = ()
    """The ascending widths of nested dictionaries, the last of them `n_latents`; one level if unset."""
    detach: bool = False
    """Whether the reconstruction of each level but the last is detached from the level that continues it, so that the
    loss of a level trains only the latents that the level adds; that of the last level trains all."""

    order: Literal["fixed", "frequency"] = "fixed"
    """Which latents are in which level: those of the initial order, or the most frequent first, sorted again every
    hundred steps (:mod:`sae.training.frequency_order`)."""

    @model_validator(mode="after")
    def _levels_ascend(self) -> Config:
        if self.levels:
            check_levels(self.levels, self.n_latents)
        elif self.order == "frequency" or self.detach:
            name = "detach = true" if self.detach else 'order = "frequency"'
            raise UserError(f"{name}: has no effect without levels; set levels, such as [n_latents / 4, n_latents]")
        return self

    def architecture(self, share: float = 1.0) -> UnrolledArchitecture:
        return UnrolledArchitecture(
            selection=LargestOfBatch(self.k_at(share)),
            levels=self.levels,
            detach=self.detach,
            by_frequency=self.order == "frequency",
            dead_latent_loss=self.dead_latent_loss,
            shrinkage_step=self.step,
        )


@dataclass(frozen=True, eq=False)
class Unrolled(Dictionary):
    """``z = p' [p' > threshold]``, with ``p' = p - step (z_0 W_dec + b_dec - x) W_dec^T`` and the first codes ``z_0 = p
    [p > first_threshold]``."""

    kind: ClassVar[str] = "unrolled"

    threshold: Float[Tensor, " n_latents"]
    """The value that a pre-activation must exceed, after the step, to be a code."""
    first_threshold: Float[Tensor, " n_latents"]
    """The value that it must exceed before the step to be a first code."""
    step: float = 0.3
    """The size of the step."""

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch n_latents"]:
        centred = self.centred(x)
        pre = centred @ self.W_enc + self.b_enc
        left = centred - above(pre, self.first_threshold) @ self.W_dec
        return above(pre + self.step * (left @ self.W_dec.T), self.threshold)

    def multiply_adds(self) -> int:
        """Those of three layers: the first codes, their reconstruction, and its correlation with the decoder."""
        return 3 * self.d_in * self.n_latents

    def settings(self) -> dict[str, float | int | str | bool]:
        return {"step": self.step}


KIND = Unrolled


@dataclass(frozen=True, kw_only=True)
class UnrolledArchitecture(Architecture):
    """Two selections over the batch with a step between them, without a penalty."""

    def build(self, tensors: Mapping[str, Tensor], input_scale: float) -> Unrolled:
        thresholds = {"threshold": tensors["bar"], "first_threshold": tensors["first_threshold"]}
        per_latent = {name: value.expand_as(tensors["b_enc"]) for name, value in thresholds.items()}
        return Unrolled(**raw_units({**tensors, **per_latent}, input_scale), step=self.shrinkage_step)
