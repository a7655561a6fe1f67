"""Control of sparsity: the weight of a penalty that leads to a wanted mean number of active latents.

    off = clip(log(L0 / target), -1, 1)          L0 a moving average over :data:`SMOOTH` steps
    integral  +=  pace reach / steps * off       once a step
    weight = exp(integral + pace prompt * off)   where a penalty shrinks codes (L1 and its kin), or
    weight = integral + pace prompt * off        where it counts them (JumpReLU)

A controller with a proportional and an integral part: at rest, L0 can be nothing but the target. For penalties that
shrink codes it works in logarithms: L0 falls about as a power of the weight, over orders of magnitude, so that one gain
serves every source. A penalty that counts moves thresholds, and they move at the pace of the learning rate whatever its
weight: there the proportional part leads, and the weight may be a reward, for thresholds that have risen too far see so
few codes that no positive weight, however small, brings them down again; and the integral waits until L0 is within 30%
of the target, or it would be full of the time that thresholds took to come near.

`pace` rises over the run. A fresh dictionary is dense and becomes sparse by learning; a controller in a hurry would not
wait for that but drive the weight up, and latents to their death. Measured on the demo with 2000 steps: at full
pace from the beginning L1 ends with mcc .985 and a third of its latents dead, so with .999 and none.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

SHRINKS = 100.0, 1.0
COUNTS = 300.0, 50.0
"""`reach` and `prompt`."""
FASTEST = 0.2, 0.02
"""``reach / steps`` is held to these, for counts and for codes that shrink: L0 follows the weight in some fifty
steps, and what integrates faster swings."""
_NEAR = 0.3
SLOW, SETTLED = 0.15, 0.6
"""`pace` begins at the one and is full after the other share of the steps."""
SMOOTH = 20


class Control:
    """The weights of the members of a stack; those without a target (NaN) have weight one.

    `integral` and `smooth` (the moving average, zero before the first step) are changed in place: they belong to the
    state of training. `counts` says which members' penalty counts codes.
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
            torch.where(counts, at_jumps, elsewhere) for elsewhere, at_jumps in zip(SHRINKS, COUNTS, strict=True)
        )
        self.gain = (reach / steps).minimum(torch.where(counts, *FASTEST))

    @property
    def at_work(self) -> bool:
        return not bool(self.target.isnan().all())

    def _off(self) -> Tensor:
        off = (self.smooth.clamp_min(1e-3) / self.target).log().clamp(-1, 1)
        return torch.where(self.target.isnan() | (self.smooth == 0), 0.0, off)

    def weight(self, share: float) -> Float[Tensor, " n_members"]:
        """The weights of the step after a share of all."""
        drive = self.integral + _pace(share) * self.prompt * self._off()
        return torch.where(self.counts & ~self.target.isnan(), drive, drive.exp())

    def follow_(self, l0: Float[Tensor, " n_members"], share: float) -> None:
        """After a step in which so many latents were active."""
        self.smooth.copy_(torch.where(self.smooth > 0, self.smooth.lerp(l0, 1 / SMOOTH), l0))
        off = self._off()
        self.integral += _pace(share) * self.gain * torch.where(self.counts & (off.abs() > _NEAR), 0.0, off)


def _pace(share: float) -> float:
    return min(1.0, SLOW + (1 - SLOW) * share / SETTLED)
