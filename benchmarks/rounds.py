"""Times a trainer and the roofline in turn: series of steps, with the roofline measured before and after each."""

from __future__ import annotations

from statistics import mean, median

from benchmarks.clock import seconds as seconds_of
from benchmarks.lines import Line
from benchmarks.roofline import Roofline
from benchmarks.trainers import Setting, Trainer

ROUNDS = 5


def time_with_roofline(trainer: Trainer, setting: Setting, seconds: float, n_members: int = 1) -> Line:
    """Times a warmed-up trainer for about `seconds`. Times are medians over the series; `l0` is their mean."""
    one = seconds_of(lambda: trainer.steps(trainer.stride), setting.device) / trainer.stride
    n = trainer.stride * max(1, round(seconds / ROUNDS / one / trainer.stride))
    at_least = seconds / ROUNDS / 6
    roofline = Roofline(
        setting.d_in, setting.n_latents, setting.batch, setting.dtype, setting.device, n_members, at_least
    )
    step_seconds: list[float] = []
    l0s: list[float] = []
    for _ in range(ROUNDS):
        roofline.seconds()
        step_seconds.append(seconds_of(lambda: trainer.steps(n), setting.device) / n)
        l0s.append(trainer.l0())
    roofline.seconds()
    dense = median(roofline.measured)
    return {
        "l0": mean(l0s),
        "samples_per_s": setting.batch / median(step_seconds),
        "roofline_samples_per_s": setting.batch / dense,
        "step_ms": 1000 * median(step_seconds),
        "roofline_ms": 1000 * dense,
        "gflops": roofline.flops / dense / 1e9,
        "steps": ROUNDS * n,
    }
