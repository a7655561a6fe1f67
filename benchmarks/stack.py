"""Times a stack of dictionaries on shared batches, against the batched roofline and a loop over a library's trainer.

python -m benchmarks.stack --members 16 --d-in 64 --n-latents 256 --batch 1024
"""

from __future__ import annotations

from dataclasses import asdict, replace
from statistics import mean
from typing import Any

import torch

from benchmarks import trainers
from benchmarks.isolated import ProcessError, call
from benchmarks.lines import Line, emit, failed, note, run
from benchmarks.rounds import time_with_roofline
from benchmarks.trainers import Setting, Trainer
from benchmarks.trainers.ours import Run, config_of
from sae.numerics import memory

OURS = "sae-relu"
PEERS = ("dictionary_learning-standard", "saelens-standard")
LEAST_L1, MOST_L1 = 0.5, 4.0


def stack(
    *,
    members: int = 16,
    d_in: int = 64,
    n_latents: int = 256,
    batch: int = 1024,
    l0: int = 16,
    steps: int = 500,
    threads: int = 2,
    device: str = "cpu",
    seconds: float = 10.0,
    seed: int = 0,
) -> list[Line]:
    """Print a result for our stack and for a loop over the L1 trainer of each installed library.

    Parameters
    ----------
    members
        Number of dictionaries; their l1 values are evenly spaced on a logarithmic scale.
    d_in
        Width of the activations.
    n_latents
        Width of each dictionary.
    batch
        Samples per batch; all members share the batches.
    l0
        Density of the data: l0 / 2 planted features are active per sample.
    steps
        Steps that our stack is trained before it is timed.
    threads
        Threads per process.
    device
        Device of the training and of the roofline.
    seconds
        Time for each, in five series of steps with the roofline measured between them.
    seed
        Seed of the data and of the first member.
    """
    setting = Setting(d_in, n_latents, batch, l0, device=device, seed=seed)
    lines: list[Line] = []
    for name in (OURS, *PEERS):
        if not trainers.available(name):
            continue
        note(f"{name} x {members}")
        settings = {"name": name, "members": members, "steps": steps, "seconds": seconds, "setting": asdict(setting)}
        try:
            timing = call("benchmarks.stack:measure", settings, threads)
        except ProcessError as error:
            failed(f"{name}: {error}")
            continue
        shape = {"members": members, "d_in": d_in, "n_latents": n_latents, "batch": batch}
        line = {
            "name": name if name == OURS else f"{name}-loop",
            **shape,
            "device": device,
            "threads": threads,
            **timing,
        }
        line["fraction"] = line["samples_per_s"] / line["roofline_samples_per_s"]
        lines.append(emit("stack", line, device))
    return lines


class Loop:
    """Trainers of a library that take turns on each batch, as in a Python loop over a sweep."""

    stride = 1

    def __init__(self, name: str, settings: list[Setting], batches: list[torch.Tensor]) -> None:
        self.trainers = [trainers.build(name, setting, batches) for setting in settings]

    def steps(self, n: int) -> None:
        for _ in range(n):
            for trainer in self.trainers:
                trainer.steps(1)

    def l0(self) -> float:
        return mean(trainer.l0() for trainer in self.trainers)


def build(name: str, members: int, setting: Setting) -> Trainer:
    """Our stack, or a loop over the trainers of a library, with `members` values of l1."""
    batches = trainers.pool_of(setting)
    l1s = torch.logspace(0, 1, members, base=MOST_L1 / LEAST_L1).mul(LEAST_L1).tolist()
    settings = [replace(setting, l1=l1, seed=setting.seed + i) for i, l1 in enumerate(l1s)]
    if name == OURS:
        return Run([(config_of("relu", s), s.seed) for s in settings], setting, batches)
    return Loop(name, settings, batches)


def measure(name: str, members: int, steps: int, seconds: float, setting: dict[str, Any]) -> Line:
    """Times a stack or a loop in this process. Only ours is trained first, because the others are always dense."""
    full = Setting(**setting)
    build(name, members, replace(full, d_in=8, n_latents=64, batch=64, l0=2)).steps(10)
    before = memory.held_bytes(full.device)
    trainer = build(name, members, full)
    trainer.steps(steps if name == OURS else 4)
    peak = (memory.peak_bytes(full.device) - before) / 2**20
    return {**time_with_roofline(trainer, full, seconds, members), "peak_mb": max(0.0, peak)}


if __name__ == "__main__":
    run(stack)
