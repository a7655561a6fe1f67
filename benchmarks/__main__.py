"""Runs every program at a small size, in about three minutes; README.md has the full sizes."""

from __future__ import annotations

from pathlib import Path

from benchmarks.data import data
from benchmarks.generate import generate
from benchmarks.harvest import harvest
from benchmarks.lines import note, run
from benchmarks.scale.measure import Measurement, measure
from benchmarks.stack import stack
from benchmarks.step import step
from benchmarks.whole import whole
from benchmarks.workers import workers

TRAINERS = ("sae-relu", "sae-topk", "dictionary_learning-standard", "saelens-standard", "sparsify-topk")


def run_all(*, threads: int = 2, cache: Path = Path("runs/bench")) -> None:
    """Print the results of every program at a small size.

    Parameters
    ----------
    threads
        Threads per process.
    cache
        Folder for trained states, batches and shards.
    """
    note("step: 128 -> 512")
    step(
        only=TRAINERS,
        d_in=128,
        n_latents=512,
        batch=1024,
        l0=16,
        threads=threads,
        seconds=2.0,
        least_steps=300,
        cache=cache,
    )
    note("stack: 8 x 64 -> 256")
    stack(members=8, batch=512, steps=200, threads=threads, seconds=2.0)
    note("whole: 64 -> 256")
    whole(d_in=64, n_latents=256, batch=512, steps=300, threads=threads, repeats=1, cache=cache)
    note("scale: 64 -> 1,024 on two processes")
    for path in ("sparse", "dense"):
        measure(Measurement("relu", 64, 1024, 512, 16, 1, path, 0.5), processes=2, threads=1, rounds=1)
    note("data: 100,000 rows")
    data(rows=100_000, shard_rows=20_000, threads=threads, seconds=1.0, cache=cache)
    note("generate")
    generate(threads=threads, seconds=0.5)
    note("workers: 4 sources")
    workers(small=True, cache=cache)
    note("harvest")
    harvest(threads=threads, batches=2, seconds=2.0)


if __name__ == "__main__":
    run(run_all)
