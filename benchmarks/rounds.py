"""A trainer timed beside its roofline: stretches of steps, with the roofline measured before and after each."""

from __future__ import annotations

from statistics import mean, median

from benchmarks.clock import seconds as seconds_of
from benchmarks.lines import Line
from benchmarks.roofline import Roofline
from benchmarks.trainers import Setting, Trainer

ROUNDS = 5


def beside_roofline(trainer: Trainer, it: Setting, seconds: float, n_members: int = 1) -> Line:
    """Times a trainer that is warm for about so many seconds; medians over the stretches."""
    one = seconds_of(lambda: trainer.steps(trainer.stride), it.device) / trainer.stride
    n = trainer.stride * max(1, round(seconds / ROUNDS / one / trainer.stride))
    at_least = seconds / ROUNDS / 6
    roofline = Roofline(it.d_in, it.n_latents, it.batch, it.dtype, it.device, n_members, at_least)
    stretches: list[float] = []
    l0s: list[float] = []
    for _ in range(ROUNDS):
        roofline.seconds()
        stretches.append(seconds_of(lambda: trainer.steps(n), it.device) / n)
        l0s.append(trainer.l0())
    roofline.seconds()
    dense = median(roofline.measured)
    return {
        "l0": mean(l0s),
        "samples_per_s": it.batch / median(stretches),
        "roofline_samples_per_s": it.batch / dense,
        "step_ms": 1000 * median(stretches),
        "roofline_ms": 1000 * dense,
        "gflops": roofline.flops / dense / 1e9,
        "steps": ROUNDS * n,
    }
