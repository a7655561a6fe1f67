"""Interface of architectures: what one kind of dictionary defines for the engine, which trains all of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor

from sae.dictionary import Dictionary
from sae.registry import KindSettings, UserError, VersionedSettings


@dataclass(frozen=True)
class Positive:
    """Codes are the positive pre-activations."""


@dataclass(frozen=True)
class Largest:
    """Codes are the `k` largest pre-activations of each sample, where positive."""

    k: int
    """The number of latents kept per sample."""


@dataclass(frozen=True)
class LargestOfBatch:
    """Codes are the ``k * batch`` largest pre-activations of a batch, where positive.

    No kernel implements it: :mod:`sae.training.sparse_step` and :mod:`sae.training.dense_step` build it from positive
    pre-activations and a threshold.
    """

    k: int
    """The mean number of latents kept per sample."""


Selection = Positive | Largest

POSITIVE = Positive()
LatentParameters = Mapping[str, Tensor]
"""Per-latent parameters by name: `b_enc`, and those that an architecture adds (:attr:`Architecture.initial_values`)."""


class CodeGradients(NamedTuple):
    """Gradients of half the loss, summed over the batch, one entry per code."""

    pre: Tensor
    """The gradient in the pre-activations."""
    parameters: Mapping[str, Tensor] = {}
    """The gradients in the per-latent parameters that the architecture adds, by name."""


@dataclass(frozen=True)
class Pursuit:
    """Codes are found in `k` steps of matching pursuit, not in one layer; see :mod:`sae.training.pursuit_step`."""

    k: int
    """The number of steps."""


@dataclass(frozen=True)
class AuxK:
    """Auxiliary loss in which dead latents reconstruct the residual of the others.

    ``coefficient min(1, n_dead / k) ||x_hat - x + z_dead W_dec||^2``, where z_dead are the `k` largest dead
    pre-activations of a sample. Gao et al. 2024, section 2.4, in the units of the main loss.
    """

    coefficient: float
    """The weight of the loss."""
    k: int | None = None
    """The number of dead latents used per sample; half of `d_in` if None."""


@dataclass(frozen=True)
class PreActivationLoss:
    """Auxiliary loss that raises dead latents to their threshold: ``coefficient sum_dead ReLU(threshold - pre)``.

    The pre-activation loss of Conerly et al. 2025, 'Dictionary learning optimization techniques'.
    """

    coefficient: float
    """The weight of the loss."""


@dataclass(frozen=True, kw_only=True)
class Architecture(ABC):
    """Which pre-activations become codes, and the penalty with its derivative.

    The engine computes the matrix products, dense or sparse. An architecture works elementwise, on codes of any shape,
    and sees ``v = ReLU(pre - cutoff)``, which is zero where the selection drops a pre-activation. Where `v` is zero,
    codes must be zero; gradients there are ignored.
    """

    unit_rows: bool = True
    """Whether decoder rows are held at norm one."""

    selection: Positive | Largest | LargestOfBatch | Pursuit = POSITIVE
    """Which pre-activations are kept; the others become zero."""

    levels: tuple[int, ...] = ()
    """Widths of nested dictionaries: the loss is the mean over levels w of the loss of the first w latents. Empty means
    one level."""

    detach: bool = False
    """Whether the loss of every level but the last trains only the latents that the level adds."""

    by_frequency: bool = False
    """Whether latents are sorted by their firing frequency during training, see :mod:`sae.training.frequency_order`."""

    dead_latent_loss: AuxK | PreActivationLoss | None = None
    """The auxiliary loss for dead latents; None for none."""

    shrinkage_step: float = 0.0
    """The size of a step of iterative shrinkage that the encoder takes before its selection over the batch, see
    :mod:`sae.training.shrinkage_step`; 0 for none. Such members stay on the dense path."""

    @property
    def initial_values(self) -> Mapping[str, float]:
        """The per-latent parameters that the architecture adds to the weights and `b_enc`, and their initial values."""
        return {}

    @property
    def constant_rate(self) -> bool:
        """Whether the added per-latent parameters keep the full learning rate to the end, so that a controller that
        acts through them can hold its target."""
        return False

    @property
    def needs_l0(self) -> bool:
        """Whether the penalty's weight depends on the batch's mean number of active latents."""
        return False

    def cutoff(self, parameters: LatentParameters) -> Tensor | None:
        """The value that a pre-activation must exceed to matter; None means zero."""
        return None

    def activate(self, v: Tensor, parameters: LatentParameters) -> tuple[Tensor, ...]:
        """The codes, and further codes that are decoded with a detached decoder."""
        return (v,)

    def backward(
        self,
        v: Tensor,
        codes: tuple[Tensor, ...],
        h: tuple[Tensor, ...],
        norm: Tensor | None,
        half: Tensor,
        parameters: LatentParameters,
    ) -> CodeGradients:
        """The gradients, from ``h = r . W_dec[j]`` for the residual r of each of the `codes`, the decoder rows' `norm`
        (None: one) and `half` of the penalty's weight. May overwrite `h`."""
        if norm is None:
            return CodeGradients(h[0].add_(half * self.slope(codes[0])))
        return CodeGradients(h[0].add_(half * norm * self.slope(codes[0] * norm)))

    def penalty(self, u: Tensor) -> Tensor:
        """``phi(u)`` of codes in units of their reconstruction, ``u_j = ||W_dec[j]|| z_j``; ``phi(0) = 0``."""
        return torch.zeros_like(u)

    def slope(self, u: Tensor) -> Tensor | float:
        """``phi'(u)``; a number where phi is linear."""
        return 0.0

    def cost(self, v: Tensor, codes: tuple[Tensor, ...], norm: Tensor | None, parameters: LatentParameters) -> Tensor:
        """The unweighted penalty of each code."""
        return self.penalty(codes[0] if norm is None else codes[0] * norm)

    def penalty_weight(self, coefficient: Tensor, l0: Tensor, target_l0: Tensor) -> tuple[Tensor, Tensor]:
        """The weight of the penalty in the gradient, and the value of the penalty where that is not the weighted sum of
        :meth:`cost` (NaN where it is)."""
        return coefficient, torch.full_like(coefficient, torch.nan)

    def constrain_(self, parameters: LatentParameters) -> None:
        """Projects the per-latent parameters onto their valid range, in place, after a step."""
        return

    @abstractmethod
    def build(self, tensors: Mapping[str, Tensor], input_scale: float) -> Dictionary:
        """The dictionary in raw units, from the tensors of a member trained on ``input_scale * x``."""


class DictionaryConfig(VersionedSettings, KindSettings, ABC):
    """Settings of one architecture."""

    interface: ClassVar[str] = "dictionaries"

    n_latents: int = Field(gt=0)
    """The number of latents."""
    decoder_bias: bool = True
    """Whether `b_dec` is trained; otherwise it stays zero."""

    member_axes: ClassVar[tuple[str, ...]] = ()
    """The fields in which members of one stack may differ: those of the penalty's weight."""

    @abstractmethod
    def architecture(self, share: float = 1.0) -> Architecture:
        """The architecture after this share of the training steps; it changes only where a setting is annealed."""

    @property
    def coefficient(self) -> float:
        """The weight of the penalty."""
        return 0.0

    @property
    def target_l0(self) -> float | None:
        """The target for the mean number of active latents; None without one."""
        return None

    @property
    def controlled(self) -> bool:
        """Whether a controller sets the penalty's weight to reach `target_l0`."""
        return self.target_l0 is not None

    @property
    def counts(self) -> bool:
        """Whether the penalty counts active latents instead of shrinking codes."""
        return False

    @property
    def resampled(self) -> bool:
        """Whether dead latents are resampled; False where an auxiliary loss trains them."""
        return True


def exactly_one(weight: str, a: float | None, target: str, b: float | None) -> None:
    """Raises `UserError` unless exactly one of the fields `weight` and `target`, with values `a` and `b`, is set."""
    if (a is None) == (b is None):
        what = f"{weight}, {target}: neither is" if a is None else f"{weight} = {a}, {target} = {b}: both are"
        raise UserError(f"{what} set; set one, {weight} (the penalty's weight) or {target} (the L0 to reach)")


def check_k(name: str, k: int | None, n_latents: int) -> None:
    """Raises `UserError` where the field `name`, of value `k`, exceeds the number of latents."""
    if k is not None and k > n_latents:
        raise UserError(f"{name} = {k} is more than n_latents = {n_latents}; lower it or raise n_latents")


def check_levels(levels: Sequence[int], n_latents: int) -> None:
    """Raises `UserError` unless the widths ascend from at least 1 and end at `n_latents`."""
    if levels[-1] != n_latents or list(levels) != sorted({*levels}) or levels[0] < 1:
        raise UserError(f"levels = {list(levels)}: widths must ascend and end at n_latents = {n_latents}")


class PenalisedConfig(DictionaryConfig):
    """Settings of an architecture with a penalty on the decoded codes."""

    l1: float | None = Field(default=None, ge=0)
    """The weight of the penalty."""
    l0: float | None = Field(default=None, gt=0)
    """The target for the mean number of active latents, reached by a controller that sets the weight; replaces `l1`."""

    member_axes: ClassVar[tuple[str, ...]] = ("l1", "l0")

    @model_validator(mode="after")
    def _one_target(self) -> PenalisedConfig:
        exactly_one("l1", self.l1, "l0", self.l0)
        return self

    @property
    def coefficient(self) -> float:
        return 1.0 if self.l1 is None else self.l1

    @property
    def target_l0(self) -> float | None:
        return self.l0


class SelectingConfig(DictionaryConfig):
    """Settings of an architecture that keeps the `k` largest codes."""

    k: int = Field(gt=0)
    """The number of active latents per sample."""
    k_start: int | None = Field(default=None, gt=0)
    """The number of active latents at the first step, annealed linearly to `k`; `k` throughout if unset."""
    k_anneal: float = Field(default=0.0, ge=0, le=1)
    """The share of the training steps over which `k_start` is annealed to `k`."""
    aux_coefficient: float = Field(default=1 / 32, ge=0)
    """The weight of the auxiliary loss for dead latents (:class:`AuxK`); 0 resamples them instead."""
    aux_k: int | None = Field(default=None, gt=0)
    """The number of dead latents per sample in the auxiliary loss; half of `d_in` if unset."""

    @model_validator(mode="after")
    def _k_fits(self) -> SelectingConfig:
        check_k("k", self.k, self.n_latents)
        check_k("k_start", self.k_start, self.n_latents)
        if (self.k_start is None) != (self.k_anneal == 0):
            raise UserError(
                f"k_start = {self.k_start}, k_anneal = {self.k_anneal}: one without the other has no effect; set both "
                "(the first k, and the share of the steps that annealing takes) or neither"
            )
        return self

    def k_at(self, share: float) -> int:
        """The number of active latents after a share of the training steps."""
        if self.k_start is None or share >= self.k_anneal:
            return self.k
        return round(self.k_start + (self.k - self.k_start) * share / self.k_anneal)

    @property
    def dead_latent_loss(self) -> AuxK | None:
        return AuxK(self.aux_coefficient, self.aux_k) if self.aux_coefficient else None

    @property
    def resampled(self) -> bool:
        return self.aux_coefficient == 0


SCALED = ("threshold", "first_threshold", "shift")
"""The tensors of a dictionary that scale like their latent's pre-activation."""


def raw_units(tensors: Mapping[str, Tensor], input_scale: float) -> dict[str, Any]:
    """Folds the input scale into the weights and normalises decoder rows; ``x_hat`` does not change.

    With x' = s x, ``z' = s z``: dividing both biases by s gives codes in raw units. A row of norm r is divided by
    r and its latent multiplied by r, since selections commute with positive factors, and with it :data:`SCALED`.
    """
    norm = tensors["W_dec"].norm(dim=-1)
    norm = torch.where(norm > 0, norm, torch.ones_like(norm))
    folded = {
        "W_enc": tensors["W_enc"] * norm,
        "W_dec": tensors["W_dec"] / norm[:, None],
        "b_enc": tensors["b_enc"] * norm / input_scale,
        "b_dec": tensors["b_dec"] / input_scale,
    }
    return folded | {name: tensors[name] * norm / input_scale for name in SCALED if name in tensors}
