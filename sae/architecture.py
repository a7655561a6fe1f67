"""The noun `Architecture`: what one kind of dictionary has of its own, for the engine that trains all of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor

from sae.dictionary import Dictionary
from sae.registry import Settings, UserError


@dataclass(frozen=True)
class Positive:
    """Codes are the positive pre-activations."""


@dataclass(frozen=True)
class Largest:
    """Codes are the `k` largest pre-activations of a row, as far as they are positive."""

    k: int


@dataclass(frozen=True)
class LargestOfBatch:
    """Codes are the ``k * batch`` largest pre-activations of all rows together, as far as they are positive.

    No kernel knows of it: it is made of positive pre-activations, see :mod:`sae.training.sparse_step` and
    :mod:`sae.training.dense_step`.
    """

    k: int


Selection = Positive | Largest

POSITIVE = Positive()
LatentParameters = Mapping[str, Tensor]
"""Numbers of the latents at hand: `b_enc`, and what an architecture has of its own."""


class CodeGradients(NamedTuple):
    """Gradients of half the loss, summed over the batch, code by code."""

    pre: Tensor
    parameters: Mapping[str, Tensor] = {}


@dataclass(frozen=True)
class Pursuit:
    """Codes are not read in one layer but found in `k` steps, see :mod:`sae.training.pursuit_step`."""

    k: int


@dataclass(frozen=True)
class AuxK:
    """Dead latents learn to reconstruct what the others leave: ``coefficient ||x_hat - x + z_dead W_dec||^2``, z_dead
    the `k` largest dead pre-activations of a row (half of `d_in` where unset), times ``min(1, n_dead / k)``.

    Gao et al. 2024, section 2.4, in the units of the main loss.
    """

    coefficient: float
    k: int | None = None


@dataclass(frozen=True)
class PreActivationLoss:
    """Dead latents are drawn to where they fire: ``coefficient sum_dead ReLU(threshold - pre)`` (the pre-activation
    loss of Conerly et al. 2025, 'Dictionary learning optimization techniques')."""

    coefficient: float


@dataclass(frozen=True, kw_only=True)
class Architecture(ABC):
    """What is an architecture's own: which pre-activations become codes, and its penalty with its derivative.

    The matrix products belong to the engine, dense or sparse; what is said here is said elementwise, for codes of
    any shape, in terms of candidates: ``v = ReLU(pre - margin)``, where pre-activations that the selection leaves
    out are zero. Where `v` is zero, codes must be zero; what is said of gradients there is not heard.
    """

    unit_rows: bool = True
    """Whether the decoder's rows are held at norm one."""

    selection: Positive | Largest | LargestOfBatch | Pursuit = POSITIVE
    """Which candidates are kept; the others become zero."""

    levels: tuple[int, ...] = ()
    """Widths of nested dictionaries: the loss is the mean over levels of that of the first so many latents. Empty
    means one level."""

    dead_latent_loss: AuxK | PreActivationLoss | None = None
    """What dead latents learn beside."""

    @property
    def initial_values(self) -> Mapping[str, float]:
        """The numbers that every latent has beside its rows and `b_enc`, trained like them, and where they begin."""
        return {}

    @property
    def constant_rate(self) -> bool:
        """Whether own numbers learn at the full rate to the end, so that what controls them can hold its target."""
        return False

    @property
    def needs_l0(self) -> bool:
        """Whether the penalty's weight depends on the batch's mean number of active latents."""
        return False

    def cutoff(self, own: LatentParameters) -> Tensor | None:
        """Pre-activations must exceed this to matter; None means zero."""
        return None

    def activate(self, v: Tensor, own: LatentParameters) -> tuple[Tensor, ...]:
        """The codes of candidates, and further ones that are decoded by a decoder which learns nothing from them."""
        return (v,)

    def backward(
        self,
        v: Tensor,
        codes: tuple[Tensor, ...],
        h: tuple[Tensor, ...],
        norm: Tensor | None,
        half: Tensor,
        own: LatentParameters,
    ) -> CodeGradients:
        """The gradients, given ``h = r . W_dec[j]`` for the residual r of each of the `codes`, the decoder's `norm`
        (None: one) and `half` of the penalty's weight. It may overwrite `h`."""
        if norm is None:
            return CodeGradients(h[0].add_(half * self.slope(codes[0])))
        return CodeGradients(h[0].add_(half * norm * self.slope(codes[0] * norm)))

    def penalty(self, u: Tensor) -> Tensor:
        """``phi(u)`` of codes in units of what they decode to, ``u_j = ||W_dec[j]|| z_j``; ``phi(0) = 0``."""
        return torch.zeros_like(u)

    def slope(self, u: Tensor) -> Tensor | float:
        """``phi'(u)``; a number where phi is linear."""
        return 0.0

    def cost(self, v: Tensor, codes: tuple[Tensor, ...], norm: Tensor | None, own: LatentParameters) -> Tensor:
        """The penalty of each candidate, without its weight."""
        return self.penalty(codes[0] if norm is None else codes[0] * norm)

    def penalty_weight(self, coefficient: Tensor, l0: Tensor, target_l0: Tensor) -> tuple[Tensor, Tensor]:
        """The weight of the penalty in the gradient, and the penalty's own value where it is not its weighted sum over
        codes (NaN where it is)."""
        return coefficient, torch.full_like(coefficient, torch.nan)

    def constrain_(self, own: LatentParameters) -> None:
        """Brings own numbers back to where they must lie, after a step."""
        return

    @abstractmethod
    def build(self, tensors: Mapping[str, Tensor], input_scale: float) -> Dictionary:
        """The dictionary in raw units, from the tensors of a member trained on ``input_scale * x``."""


class DictionaryConfig(Settings, ABC):
    """Settings of one architecture."""

    n_latents: int = Field(gt=0)
    decoder_bias: bool = True

    member_axes: ClassVar[tuple[str, ...]] = ()
    """The fields in which members of one stack may differ: those of the penalty's weight."""

    @abstractmethod
    def architecture(self, share: float = 1.0) -> Architecture:
        """What is trained after this share of the steps; only what is annealed depends on it."""

    @property
    def coefficient(self) -> float:
        """The weight of this member's penalty."""
        return 0.0

    @property
    def target_l0(self) -> float | None:
        """The mean number of active latents that the penalty is to lead to, where one is asked for."""
        return None

    @property
    def controlled(self) -> bool:
        """Whether the penalty's weight is to be controlled for `target_l0`."""
        return self.target_l0 is not None

    @property
    def counts(self) -> bool:
        """Whether the penalty counts codes, in place of shrinking them."""
        return False

    @property
    def resampled(self) -> bool:
        """Whether dead latents are resampled; no where the architecture revives them itself."""
        return True


def exactly_one(first: str, a: float | None, second: str, b: float | None) -> None:
    """Refuses both and neither."""
    if (a is None) == (b is None):
        given = "neither is" if a is None else "both are"
        raise UserError(f"give {first}, the penalty's weight, or {second}, the sparsity to reach: {given} given")


class PenalisedConfig(DictionaryConfig):
    """Settings of an architecture with a penalty on what codes decode to, of weight `l1`.

    ``l0 = 20`` in place of `l1` has the weight controlled so that on average 20 latents are active.
    """

    l1: float | None = Field(None, ge=0)
    l0: float | None = Field(None, gt=0)

    member_axes: ClassVar[tuple[str, ...]] = ("l1", "l0")

    @model_validator(mode="after")
    def _one_aim(self) -> PenalisedConfig:
        exactly_one("l1", self.l1, "l0", self.l0)
        return self

    @property
    def coefficient(self) -> float:
        return 1.0 if self.l1 is None else self.l1

    @property
    def target_l0(self) -> float | None:
        return self.l0


class SelectingConfig(DictionaryConfig):
    """Settings of an architecture that keeps the largest codes, `k` a row.

    `k_start` latents are active at first and `k` after the share `k_anneal` of the steps. Dead latents learn by
    :class:`AuxK` with `aux_coefficient` and `aux_k` (half of `d_in` where unset); 0 leaves them to resampling.
    """

    k: int = Field(gt=0)
    k_start: int | None = Field(None, gt=0)
    k_anneal: float = Field(0.0, ge=0, le=1)
    aux_coefficient: float = Field(1 / 32, ge=0)
    aux_k: int | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _k_fits(self) -> SelectingConfig:
        if max(self.k, self.k_start or 0) > self.n_latents:
            raise UserError(f"k = {max(self.k, self.k_start or 0)} is more than n_latents = {self.n_latents}")
        if (self.k_start is None) != (self.k_anneal == 0):
            raise UserError("k_start and k_anneal go together: from how many, and over what share of the steps")
        return self

    def k_at(self, share: float) -> int:
        """The number of active latents after a share of the steps."""
        if self.k_start is None or share >= self.k_anneal:
            return self.k
        return round(self.k_start + (self.k - self.k_start) * share / self.k_anneal)

    @property
    def dead_latent_loss(self) -> AuxK | None:
        return AuxK(self.aux_coefficient, self.aux_k) if self.aux_coefficient else None

    @property
    def resampled(self) -> bool:
        return self.aux_coefficient == 0


def raw_units(tensors: Mapping[str, Tensor], input_scale: float) -> dict[str, Any]:
    """Folds the scale in and makes every decoder row a unit vector, which leaves ``x_hat`` as it was.

    With x' = s x, ``z' = s z``: dividing both biases by s gives codes in raw units. A row of norm r is divided by
    r and its latent multiplied by r, since selections commute with positive factors. A `threshold` or a `shift` goes
    with its latent's pre-activations.
    """
    norm = tensors["W_dec"].norm(dim=-1)
    norm = torch.where(norm > 0, norm, torch.ones_like(norm))
    found = {
        "W_enc": tensors["W_enc"] * norm,
        "W_dec": tensors["W_dec"] / norm[:, None],
        "b_enc": tensors["b_enc"] * norm / input_scale,
        "b_dec": tensors["b_dec"] / input_scale,
    }
    return found | {name: tensors[name] * norm / input_scale for name in ("threshold", "shift") if name in tensors}
