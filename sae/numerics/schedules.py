"""Schedules: what the learning rate and the penalty are at each step, as plain functions."""

from __future__ import annotations

import math


def cosine(step: int, steps: int) -> float:
    """A factor that falls from 1 to 0 along half a cosine (Loshchilov and Hutter 2017)."""
    return (1 + math.cos(math.pi * step / steps)) / 2


def trapezoid(step: int, steps: int, warm_up: float, decay: float) -> float:
    """A factor that rises linearly over the first share `warm_up` of the steps and falls linearly to zero over
    the last share `decay`; 1 between. Step numbers start at 0; the factor is positive at every step."""
    rise = (step + 1) / max(warm_up * steps, 1.0)
    fall = (steps - step) / max(decay * steps, 1.0)
    return min(1.0, rise, fall)
