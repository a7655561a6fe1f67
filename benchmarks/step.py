"""One training step, ours and every other library's, as a share of the dense roofline measured in the same process.

python -m benchmarks.step --d-in 256 --n-latents 2048 --batch 4096 --l0 32
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from benchmarks import trainers
from benchmarks.isolated import Failed, call
from benchmarks.lines import Line, emit, note, run
from benchmarks.rounds import beside_roofline
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
    """Print one JSON line for each trainer that is installed.

    Parameters
    ----------
    d_in
        Width of the activations.
    n_latents
        Width of the dictionary.
    batch
        Rows of a batch.
    l0
        Active latents a row: what our L1 dictionary is trained to before it is timed, and k of every TopK.
    dtype
        The type of the roofline's products and of the other libraries' mixed precision.
    threads
        Threads of every process.
    device
        Where everything runs.
    seconds
        How long each trainer is timed for, in five stretches with the roofline measured between them.
    least_steps
        How long our L1 dictionary is trained before it is timed, at the least.
    only
        Names of trainers, in place of all that are installed.
    train
        KEY=VALUE for our training loop, may be given several times; the line shows it.
    cache
        The folder where trained states are kept.
    seed
        Of the data and of every dictionary.
    """
    extra = dict(pair.split("=", 1) for pair in train or ())
    setting = Setting(d_in, n_latents, batch, l0, dtype, device, seed, extra=extra)
    lines: list[Line] = []
    for name in trainers.names() if only is None else only:
        if absent := trainers.missing(name):
            note(f"{name}: left out, there is no {absent}")
            continue
        note(name)
        try:
            lines.append(emit("step", timed(name, setting, threads, seconds, cache, least_steps), device))
        except Failed as failure:
            note(f"{name}: {failure}")
    return lines


def timed(name: str, setting: Setting, threads: int, seconds: float, cache: Path, least_steps: int) -> Line:
    """One trainer's line. The trained state is reached in a process of its own, for its memory is not the step's."""
    state: dict[str, float] = {}
    settings = asdict(setting)
    if name == "sae-relu":
        file = (
            cache
            / f"relu-{setting.d_in}x{setting.n_latents}-b{setting.batch}-l0-{setting.l0}-{setting.seed}.safetensors"
        )
        # Precision settings may be timed on a state that was reached without them.
        state = call(
            "benchmarks.trainers.ours:reach",
            {"file": str(file), "least_steps": least_steps, **settings, "extra": {}},
            threads,
        )
        settings |= {"checkpoint": str(file), "l1": state["l1"]}
    taken = call("benchmarks.step:measure", {"name": name, "seconds": seconds, "setting": settings}, threads)
    keys = ("d_in", "n_latents", "batch", "dtype", "device")
    line: Line = {"name": name, **{key: settings[key] for key in keys}, "threads": threads, **taken}
    line["fraction"] = line["samples_per_s"] / line["roofline_samples_per_s"]
    line["l0_wanted"] = setting.l0
    if state:
        line |= {"trained_steps": int(state["steps"]), **{k: state[k] for k in ("l1", "fvu", "dead")}}
    if name.startswith("sae-") and setting.extra:
        line["train"] = dict(setting.extra)
    return line


def measure(name: str, seconds: float, setting: dict[str, Any]) -> Line:
    """Times one trainer in this process: stretches of steps, and the roofline before and after each.

    The peak is taken before the roofline has allocated anything, from the trainer's making through its first
    steps. What the process held before is not counted: batches, and libraries with their compiled kernels and
    thread pools, which a tiny run has made them load.
    """
    it = Setting(**setting)
    small = Setting(d_in=8, n_latents=64, batch=64, l0=2, dtype=it.dtype, device=it.device, extra=it.extra)
    trainers.build(name, small, trainers.pool_of(small)).steps(10)
    batches = trainers.pool_of(it)
    before = memory.held_bytes(it.device)
    trainer = trainers.build(name, it, batches)
    trainer.steps(WARM_UP if trainer.stride == 1 else trainer.stride)
    peak = (memory.peak_bytes(it.device) - before) / 2**20
    return {**beside_roofline(trainer, it, seconds), "peak_mb": max(0.0, peak)}


if __name__ == "__main__":
    run(step)
