"""Times reading training batches from shards on disk in a global shuffle, against a plain copy of random rows.

python -m benchmarks.data --rows 4000000
"""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.clock import seconds as seconds_of
from benchmarks.isolated import call
from benchmarks.lines import Line, emit, note, run

ROUNDS = 5


def data(
    *,
    rows: int = 4_000_000,
    d_in: int = 256,
    batch: int = 4096,
    shard_rows: int = 262_144,
    threads: int = 2,
    seconds: float = 10.0,
    cache: Path = Path("runs/bench"),
    seed: int = 0,
) -> list[Line]:
    """Print one result: our rate, and the rate of the faster of two plain copies.

    Parameters
    ----------
    rows
        Samples in all shards, in float32; four million of width 256 take 4 GB in `cache` and as much memory.
    d_in
        Width of the samples.
    batch
        Samples per batch.
    shard_rows
        Samples per shard.
    threads
        Threads of the process.
    seconds
        Time for each method, in five series that take turns.
    cache
        Folder for the shards, which are written once.
    seed
        Seed of the samples and of their order.
    """
    folder = cache / f"shards-{rows}x{d_in}-{shard_rows}"
    note(f"{rows} samples of width {d_in} in {folder}")
    settings = {"folder": str(folder), "rows": rows, "d_in": d_in, "shard_rows": shard_rows, "seed": seed}
    call("benchmarks.data:prepare", settings, threads)
    timing = call(
        "benchmarks.data:measure", {"folder": str(folder), "batch": batch, "seconds": seconds, "seed": seed}, threads
    )
    shape = {"name": "sae-shards", "rows": rows, "d_in": d_in, "batch": batch, "shard_rows": shard_rows}
    line: Line = {**shape, "threads": threads, **timing}
    line["fraction"] = line["rows_per_s"] / line["copy_rows_per_s"]
    return [emit("data", line)]


def prepare(folder: str, rows: int, d_in: int, shard_rows: int, seed: int) -> dict[str, Any]:
    """Writes the missing shards."""
    from sae.activations.shards import write_shard
    from sae.numerics.seeds import generator

    Path(folder).mkdir(parents=True, exist_ok=True)
    for k in range(-(-rows // shard_rows)):
        file = Path(folder) / f"train-{k:05d}.safetensors"
        if not file.is_file():
            n = min(shard_rows, rows - k * shard_rows)
            write_shard(file, {"acts": torch.randn(n, d_in, generator=generator("benchmark data", seed, k))})
    return {}


def measure(folder: str, batch: int, seconds: float, seed: int) -> dict[str, Any]:
    """Samples per second of three methods on the same data, which take turns: ours, a gather from a tensor in memory,
    and a gather from a memory-mapped file. Ours also computes the shuffled order; the other two get random indices.
    """
    from sae.activations.shards import Shards
    from sae.numerics.seeds import epoch_rows

    shards = Shards(sorted(Path(folder).glob("*.safetensors")))
    flat, mapped = _flat(shards, Path(folder) / "flat.bin")
    draw = np.random.default_rng(seed)
    random_rows = [torch.from_numpy(draw.integers(0, shards.n_rows, batch)) for _ in range(64)]
    into = torch.empty(batch, flat.shape[1])
    into_array = np.empty((batch, flat.shape[1]), dtype=np.float32)
    methods = {
        "ours": lambda step: shards.rows(epoch_rows(step, batch, shards.n_rows, seed)),
        "tensor": lambda step: torch.index_select(flat, 0, random_rows[step % 64], out=into),
        "mapped": lambda step: np.take(mapped, random_rows[step % 64].numpy(), axis=0, out=into_array, mode="clip"),
    }
    at = dict.fromkeys(methods, 0)

    def series(method: str, n: int) -> None:
        for _ in range(n):
            methods[method](at[method])
            at[method] += 1

    counts: dict[str, int] = {}
    for method in methods:  # also touches every page about once before timing starts
        n = max(8, shards.n_rows // batch)
        one = seconds_of(lambda method=method, n=n: series(method, n)) / n
        counts[method] = max(1, round(seconds / ROUNDS / one))
    rates: dict[str, list[float]] = {method: [] for method in methods}
    for _ in range(ROUNDS):
        for method, n in counts.items():
            rates[method].append(n * batch / seconds_of(lambda method=method, n=n: series(method, n)))
    middle = {method: median(values) for method, values in rates.items()}
    copy = max(("tensor", "mapped"), key=middle.__getitem__)
    return {"rows_per_s": middle["ours"], "copy_rows_per_s": middle[copy], "copy": copy}


def _flat(shards: Any, file: Path) -> tuple[torch.Tensor, np.ndarray]:
    """All samples as one tensor in memory, and as one memory-mapped file."""
    shape = (shards.n_rows, shards.width())
    if not file.is_file() or file.stat().st_size != 4 * shape[0] * shape[1]:
        out = np.memmap(file, dtype=np.float32, mode="w+", shape=shape)
        for first in range(0, shape[0], 65_536):
            index = np.arange(first, min(first + 65_536, shape[0]))
            out[index[0] : index[-1] + 1] = shards.rows(index).numpy()
        out.flush()
    mapped = np.memmap(file, dtype=np.float32, mode="r", shape=shape)
    return torch.from_numpy(np.array(mapped)), mapped


if __name__ == "__main__":
    run(data)
