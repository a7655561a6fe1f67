"""Control of sparsity: the weight of a penalty that leads to a wanted mean number of active latents.

    log w  +=  gain * clip(log(L0 / target), -1, 1)

once a step, L0 being a moving average over :data:`SMOOTH` steps. An integral controller in logarithms: the relation
between weight and L0 is close to a power law over orders of magnitude, so that one gain serves every source, and at
rest L0 can be nothing but the target. The gain is `REACH` over the number of steps, so that the weight can move by a
factor of e^REACH in a run; where L0 falls as ``w^-s``, the loop's time constant is ``steps / (REACH s)``, which is
long beside the hundred or so steps in which L0 follows the weight.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

REACH = 20.0
SMOOTH = 20


class Control:
    """The weights of the members of a stack; those without a target (NaN) keep theirs.

    `weight` and `smooth` are changed in place: they belong to the state of training.
    """

    def __init__(self, target: Tensor, weight: Tensor, smooth: Tensor, steps: int) -> None:
        self.target, self.weight, self.smooth = target, weight, smooth
        self.gain = min(REACH / steps, 0.05)

    @property
    def at_work(self) -> bool:
        return not bool(self.target.isnan().all())

    def follow_(self, l0: Float[Tensor, " n_members"]) -> None:
        """After a step in which so many latents were active."""
        known = self.smooth > 0
        self.smooth.copy_(torch.where(known, self.smooth.lerp(l0, 1 / SMOOTH), l0))
        off = (self.smooth.clamp_min(1e-3) / self.target).log().clamp(-1, 1)
        self.weight.mul_(torch.where(self.target.isnan(), 0.0, self.gain * off).exp())
