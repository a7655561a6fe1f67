"""Times one training step of our trainers and of other libraries, as a share of the dense roofline.

python -m benchmarks.step --d-in 256 --n-latents 2048 --batch 4096 --l0 32
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from benchmarks import trainers
from benchmarks.isolated import ProcessError, call
from benchmarks.lines import Line, emit, failed, note, run
from benchmarks.rounds import time_with_roofline
from benchmarks.trainers import Setting
from sae.numerics import memory

WARM_UP = 4


def step(
    *,
    d_in: int = 256,
    n_latents: int = 2048,
    batch: int = 4096,
    l0: int = 32,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    threads: int = 2,
    device: str = "cpu",
    seconds: float = 10.0,
    least_steps: int = 1000,
    only: Annotated[Sequence[str] | None, Parameter(name="--only", consume_multiple=True, negative=())] = None,
    train: Annotated[Sequence[str] | None, Parameter(name="--train", negative=())] = None,
    cache: Path = Path("runs/bench"),
    seed: int = 0,
) -> list[Line]:
    """Print one result for each installed trainer.

    Parameters
    ----------
    d_in
        Width of the activations.
    n_latents
        Width of the dictionary.
    batch
        Samples per batch.
    l0
        Active latents per sample: our L1 dictionary is trained to it before it is timed, and it is k of every TopK.
    dtype
        Data type of the roofline's products and of the other libraries' mixed precision.
    threads
        Threads per process.
    device
        Device of the training and of the roofline.
    seconds
        Time for each trainer, in five series of steps with the roofline measured between them.
    least_steps
        Minimum number of steps that our L1 dictionary is trained before it is timed.
    only
        Names of trainers; without it, all that are installed.
    train
        KEY=VALUE for our training loop; may be given several times, and is part of the result.
    cache
        Folder for trained states.
    seed
        Seed of the data and of every dictionary.
    """
    extra = dict(pair.split("=", 1) for pair in train or ())
    setting = Setting(d_in, n_latents, batch, l0, dtype, device, seed, extra=extra)
    lines: list[Line] = []
    for name in trainers.names() if only is None else only:
        if not trainers.available(name):
            continue
        note(name)
        try:
            lines.append(emit("step", timed(name, setting, threads, seconds, cache, least_steps), device))
        except ProcessError as error:
            failed(f"{name}: {error}")
    return lines


def timed(name: str, setting: Setting, threads: int, seconds: float, cache: Path, least_steps: int) -> Line:
    """The result of one trainer. Our L1 dictionary is trained in a separate process first, so that the memory of that
    training does not count."""
    state: dict[str, float] = {}
    settings = asdict(setting)
    if name == "sae-relu":
        file = (
            cache
            / f"relu-{setting.d_in}x{setting.n_latents}-b{setting.batch}-l0-{setting.l0}-{setting.seed}.safetensors"
        )
        # The state is always trained with the default settings, whatever settings are timed.
        state = call(
            "benchmarks.trainers.ours:train_to_l0",
            {"file": str(file), "least_steps": least_steps, **settings, "extra": {}},
            threads,
        )
        settings |= {"checkpoint": str(file), "l1": state["l1"]}
    timing = call("benchmarks.step:measure", {"name": name, "seconds": seconds, "setting": settings}, threads)
    keys = ("d_in", "n_latents", "batch", "dtype", "device")
    line: Line = {"name": name, **{key: settings[key] for key in keys}, "threads": threads, **timing}
    line["fraction"] = line["samples_per_s"] / line["roofline_samples_per_s"]
    line["l0_wanted"] = setting.l0
    if state:
        line |= {"trained_steps": int(state["steps"]), **{k: state[k] for k in ("l1", "fvu", "dead")}}
    if name.startswith("sae-") and setting.extra:
        line["train"] = dict(setting.extra)
    return line


def measure(name: str, seconds: float, setting: dict[str, Any]) -> Line:
    """Times one trainer in this process: series of steps, with the roofline measured before and after each.

    Peak memory covers the construction of the trainer and its first steps, before the roofline allocates anything.
    Memory held before is subtracted: the batches, and the libraries with their compiled kernels and thread pools, which
    a tiny run loads first.
    """
    full = Setting(**setting)
    small = Setting(d_in=8, n_latents=64, batch=64, l0=2, dtype=full.dtype, device=full.device, extra=full.extra)
    trainers.build(name, small, trainers.pool_of(small)).steps(10)
    batches = trainers.pool_of(full)
    before = memory.held_bytes(full.device)
    trainer = trainers.build(name, full, batches)
    trainer.steps(WARM_UP if trainer.stride == 1 else trainer.stride)
    peak = (memory.peak_bytes(full.device) - before) / 2**20
    return {**time_with_roofline(trainer, full, seconds), "peak_mb": max(0.0, peak)}


if __name__ == "__main__":
    run(step)
