"""Times `sae run` with several workers against one process, one thread each, and compares what they make byte by byte.

python -m benchmarks.workers > benchmarks/results/workers.jsonl
"""

from __future__ import annotations

import hashlib
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from benchmarks.isolated import environment
from benchmarks.lines import Line, emit, failed, note, run

SOURCE = """[[source]]
kind = "independent"
n_features = {n_features}
d_in = {d_in}
probability = 0.03
seed = {seed}
"""
REST = """[dictionary]
kind = "relu"
n_latents = {n_latents}
l1 = 2
[train]
steps = {steps}
batch_size = 512
n_scale = 1024
[score]
n_rows = 4000
metrics = ["reconstruction", "recovery"]
[runtime]
device = "cpu"
threads = 1
"""
OF_THE_MACHINE = {"log.jsonl", "manifest.json", "cost.json"}
"""Files of finished steps that hold times."""


def workers(
    *,
    n: int = 2,
    sources: int = 24,
    d_in: int = 64,
    n_latents: int = 256,
    steps: int = 1500,
    pairs: int = 3,
    small: bool = False,
    cache: Path = Path("runs/bench"),
) -> list[Line]:
    """Print one result: the seconds of the run by one process and by several workers, in pairs, and their ratio.

    Parameters
    ----------
    n
        Workers.
    sources
        Toy sources, each with a dictionary of its own: so many groups of steps can be done at the same time.
    d_in
        Width of the activations.
    n_latents
        Latents of every dictionary.
    steps
        Steps of training.
    pairs
        Runs of each; one process and several workers take turns. Medians count.
    small
        Four sources, 100 steps and one pair.
    cache
        Folder for the config and the steps, which are removed.
    """
    if small:
        sources, steps, pairs = 4, 100, 1
    folder = cache.absolute() / f"workers-{sources}-{d_in}-{n_latents}-{steps}"
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "workers.toml"
    settings = {"d_in": d_in, "n_features": 2 * d_in}
    tables = [SOURCE.format(seed=seed, **settings) for seed in range(sources)]
    config.write_text("".join(tables) + REST.format(n_latents=n_latents, steps=steps))
    seconds: dict[int, list[float]] = {1: [], n: []}
    cpu: dict[int, list[float]] = {1: [], n: []}
    made: dict[int, dict[str, str]] = {}
    for _ in range(pairs):
        for count in seconds:
            out = folder / f"by-{count}"
            shutil.rmtree(out, ignore_errors=True)
            for times, took in zip((seconds, cpu), time_run(config, out, count), strict=True):
                times[count].append(took)
            made[count] = files_in(out)
            note(f"{count} workers: {seconds[count][-1]:.1f} s, {cpu[count][-1]:.1f} s of CPU")
    if made[1] != made[n]:
        failed("the files of one process and of several workers differ")
    shutil.rmtree(folder)
    one, several = median(seconds[1]), median(seconds[n])
    ratios = [a / b for a, b in zip(seconds[1], seconds[n], strict=True)]
    line: Line = {"name": "sae-workers", "workers": n, "sources": sources, "d_in": d_in, "n_latents": n_latents}
    line |= {"steps": steps, "one_s": one, "several_s": several, "ratio": median(ratios), "ratios": ratios}
    line |= {"one_cpu_s": median(cpu[1]), "several_cpu_s": median(cpu[n])}
    return [emit("workers", {**line, "files": len(made[1]), "same_bytes": made[1] == made[n]})]


def time_run(config: Path, out: Path, n: int) -> tuple[float, float]:
    """The seconds of `sae run` with so many workers, from the start of the command to its end, and those of the
    processors. Where other programs take the cores meanwhile, the latter say what the division costs."""
    command = [sys.executable, "-m", "pipelines", "run", str(config), "--out", str(out), "--workers", str(n)]
    began, before = time.perf_counter(), cpu_of_children()
    subprocess.run(command, check=True, capture_output=True, env=environment(1))
    return time.perf_counter() - began, cpu_of_children() - before


def cpu_of_children() -> float:
    """Seconds of the processors that processes started from here, and by those, have taken."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def files_in(out: Path) -> dict[str, str]:
    """The SHA-256 of every file of finished steps but the report, without those that hold times."""
    files = [file for step in out.glob("*-*") if not step.name.startswith("report") for file in step.rglob("*")]
    kept = [file for file in files if file.is_file() and file.name not in OF_THE_MACHINE]
    return {str(file.relative_to(out)): hashlib.sha256(file.read_bytes()).hexdigest() for file in kept}


if __name__ == "__main__":
    run(workers)
