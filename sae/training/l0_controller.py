"""A controller that sets the weight of a penalty to reach a target for the mean number of active latents.

    error = clip(log(L0 / target), -1, 1)          L0 a moving average over :data:`SMOOTH` steps
    integral  +=  pace reach / steps * error       once per step
    weight = exp(integral + pace prompt * error)   for penalties that shrink codes (L1 and the like), or
    weight = integral + pace prompt * error        for penalties that count them (JumpReLU)

This is proportional-integral control, which is stationary only at the target. For penalties that shrink codes it works
in logarithms: L0 falls roughly as a power of the weight, over orders of magnitude, so that one gain serves every
source. A penalty that counts moves thresholds, which move at the pace of the learning rate for any weight. There the
proportional part dominates, and the weight may become negative, because thresholds that have risen too far see too few
codes for any positive weight to lower them again. The integral waits until L0 is within 30% of the target; otherwise it
would accumulate the whole approach.

`pace` rises over the run. A new dictionary is dense and becomes sparse by learning; a faster controller would raise the
weight in the meantime and kill latents. Measured on the demo with 2000 steps: at full pace from the start, L1 ends with
mcc .985 and a third of its latents dead; with rising pace, with .999 and none.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

SHRINKS = 100.0, 1.0
"""`reach` and `prompt` of penalties that shrink codes."""
COUNTS = 300.0, 50.0
"""`reach` and `prompt` of penalties that count codes."""
FASTEST = 0.2, 0.02
"""The upper bounds of ``reach / steps``, for penalties that count and that shrink: L0 follows the weight within about
fifty steps, and a faster integral oscillates."""
_NEAR = 0.3
"""The error above which the integral waits, for penalties that count."""
SLOW, SETTLED = 0.15, 0.6
"""The initial `pace`, and the share of the steps after which it is one."""
SMOOTH = 20
"""The number of steps of the moving average of L0."""


class Control:
    """The controlled weights of the members of a stack; members without a target (NaN) have weight one.

    `integral` and `smooth` (the moving average of L0, zero before the first step) are part of the training state and
    updated in place. `counts` marks the members whose penalty counts codes.
    """

    def __init__(
        self,
        target: Float[Tensor, " n_members"],
        counts: Bool[Tensor, " n_members"],
        integral: Float[Tensor, " n_members"],
        smooth: Float[Tensor, " n_members"],
        steps: int,
    ) -> None:
        self.target, self.counts, self.integral, self.smooth = target, counts, integral, smooth
        reach, self.prompt = (
            torch.where(counts, counting, shrinking) for shrinking, counting in zip(SHRINKS, COUNTS, strict=True)
        )
        self.gain = (reach / steps).minimum(torch.where(counts, *FASTEST))

    @property
    def is_active(self) -> bool:
        """Whether any member has a target."""
        return not bool(self.target.isnan().all())

    def _error(self) -> Tensor:
        error = (self.smooth.clamp_min(1e-3) / self.target).log().clamp(-1, 1)
        return torch.where(self.target.isnan() | (self.smooth == 0), 0.0, error)

    def weight(self, share: float) -> Float[Tensor, " n_members"]:
        """The weights of the step after this share of the steps."""
        signal = self.integral + _pace(share) * self.prompt * self._error()
        return torch.where(self.counts & ~self.target.isnan(), signal, signal.exp())

    def follow_(self, l0: Float[Tensor, " n_members"], share: float) -> None:
        """Updates the controller, in place, after a step with `l0` active latents on average."""
        self.smooth.copy_(torch.where(self.smooth > 0, self.smooth.lerp(l0, 1 / SMOOTH), l0))
        error = self._error()
        self.integral += _pace(share) * self.gain * torch.where(self.counts & (error.abs() > _NEAR), 0.0, error)


def _pace(share: float) -> float:
    return min(1.0, SLOW + (1 - SLOW) * share / SETTLED)
