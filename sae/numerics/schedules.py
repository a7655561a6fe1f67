"""Schedules of the learning rate and of the penalty over training."""

from __future__ import annotations

import math


def cosine(step: int, steps: int) -> float:
    """A factor that falls from 1 to 0 along half a period of a cosine (Loshchilov and Hutter 2017)."""
    return (1 + math.cos(math.pi * step / steps)) / 2


def trapezoid(step: int, steps: int, warm_up: float, decay: float) -> float:
    """A factor that rises linearly over the first fraction `warm_up` of the steps, stays 1, and falls linearly to zero
    over the last fraction `decay`. Step numbers start at 0; the factor is positive at every step."""
    rise = (step + 1) / max(warm_up * steps, 1.0)
    fall = (steps - step) / max(decay * steps, 1.0)
    return min(1.0, rise, fall)
