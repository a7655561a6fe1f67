"""Times whole training runs, from random initial values to a trained dictionary, on correlated toy data.

    python -m benchmarks.whole --repeats 3

All libraries see the same batches from one pool in the same order, scaled to ``E||x|| = sqrt(d_in)``. l1 has the same
meaning for all: each minimises ``sum_d (x_hat - x)^2 + l1 sum_j ||W_dec[j]|| z_j``. Learning rate and warm-ups are the
same; decay, resampling, clipping and everything else are the defaults of each library.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean, median
from typing import Annotated, Any

import torch
from cyclopts import Parameter
from torch import Tensor

from benchmarks.clock import settle
from benchmarks.isolated import ProcessError, call
from benchmarks.lines import Line, emit, failed, note, run
from benchmarks.pool import scaled
from benchmarks.trainers import Setting, available
from sae.dictionaries.relu import ReluArchitecture
from sae.scoring import score
from sae.sources.correlated import Config as Correlated

N_FEATURES = 512
POOL = 64
HELD_OUT = 20_000
WARM_UP = 0.05
NAMES = ("sae-relu", "dictionary_learning-standard", "saelens-standard")


def whole(
    *,
    d_in: int = 256,
    n_latents: int = 2048,
    batch: int = 1024,
    steps: int = 5000,
    l1: float = 1.0,
    lr: float = 3e-3,
    threads: int = 2,
    device: str = "cpu",
    repeats: int = 2,
    train: Annotated[Sequence[str] | None, Parameter(name="--train", negative=())] = None,
    cache: Path = Path("runs/bench"),
    seed: int = 0,
) -> list[Line]:
    """Print a result for each library: the seconds of a whole run, and the quality of the dictionary.

    Parameters
    ----------
    d_in
        Width of the activations, which contain 512 features.
    n_latents
        Width of the dictionary.
    batch
        Samples per batch.
    steps
        Steps per run; the same for all libraries.
    l1
        Weight of the penalty, in summed units of the scaled input.
    lr
        Learning rate.
    threads
        Threads per process.
    device
        Device of the training.
    repeats
        Runs per library, with the libraries taking turns; times are medians, scores means.
    train
        KEY=VALUE for our training loop; may be given several times, and is part of the result.
    cache
        Folder for the batches.
    seed
        Seed of the data and of the dictionaries of the first repeat.
    """
    extra = dict(pair.split("=", 1) for pair in train or ())
    names = [name for name in NAMES if available(name)]
    file = cache / f"correlated-{d_in}-b{batch}-{seed}.safetensors"
    call("benchmarks.whole:prepare", {"file": str(file), "d_in": d_in, "batch": batch, "seed": seed}, threads)
    results: dict[str, list[Line]] = {name: [] for name in names}
    for repeat in range(repeats):
        setting = Setting(d_in, n_latents, batch, 0, device=device, seed=seed + repeat, l1=l1, extra=extra)
        for name in names:
            settings = {
                "name": name,
                "file": str(file),
                "steps": steps,
                "lr": lr,
                "data_seed": seed,
                "setting": asdict(setting),
            }
            try:
                results[name].append(call("benchmarks.whole:measure", settings, threads))
            except ProcessError as error:
                failed(f"{name}: {error}")
                continue
            note(f"{name}, run {repeat + 1} of {repeats}: {results[name][-1]}")
    lines: list[Line] = []
    for name in (name for name in names if results[name]):
        runs = results[name]
        seconds = median(r["seconds"] for r in runs)
        ours = [r["seconds"] for r in results[NAMES[0]]]
        line: Line = {"name": name, "d_in": d_in, "n_latents": n_latents, "batch": batch, "samples": steps * batch}
        line |= {"l1": l1, "lr": lr, "device": device, "threads": threads, "repeats": len(runs), "seconds": seconds}
        line |= {"ratio_to_ours": seconds / median(ours)} if ours else {}
        line |= {key: mean(r[key] for r in runs) for key in ("l0", "fvu", "mcc")}
        line |= {"train": extra} if extra and name == NAMES[0] else {}
        lines.append(emit("whole", line, device))
    return lines


def prepare(file: str, d_in: int, batch: int, seed: int) -> dict[str, Any]:
    """Writes the pool of batches that every run reads, unless the file exists."""
    from safetensors.torch import save_file

    if not Path(file).is_file():
        source = Correlated(n_features=N_FEATURES, d_in=d_in, seed=seed).build()
        batches = scaled([source.batch(step, batch).acts for step in range(POOL)], "cpu")
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        save_file({"acts": torch.stack(batches)}, file)
    return {}


def measure(name: str, file: str, steps: int, lr: float, data_seed: int, setting: dict[str, Any]) -> Line:
    """One run in this process, timed from the creation of the first parameter to the last step."""
    from safetensors.torch import load_file

    full = Setting(**setting)
    batches = list(load_file(file)["acts"].to(full.device))
    library = importlib.import_module(f"benchmarks.trainers.{'ours' if name == NAMES[0] else name.split('-')[0]}")
    small = Setting(**{**setting, "d_in": 8, "n_latents": 16, "batch": 64})
    library.fit(small, 10, lr, WARM_UP, [x[:64, :8].contiguous() for x in batches[:2]])  # imports, compiled kernels
    settle(full.device)
    begin = time.perf_counter()
    tensors = library.fit(full, steps, lr, WARM_UP, batches)
    settle(full.device)
    seconds = time.perf_counter() - begin
    return {"seconds": seconds, **quality({k: v.float().cpu() for k, v in tensors.items()}, full.d_in, data_seed)}


def quality(tensors: dict[str, Tensor], d_in: int, seed: int) -> dict[str, float]:
    """L0, unexplained variance and recovery on held-out samples of the same source, scaled like the pool."""
    source = Correlated(n_features=N_FEATURES, d_in=d_in, seed=seed).build()
    assert source.truth is not None
    rows = source.batch(0, HELD_OUT, "test")
    [x] = scaled([rows.acts], "cpu")
    d = ReluArchitecture(unit_rows=False).build(tensors, 1.0)
    scores = score(d, x, features=source.truth.directions, codes=rows.codes)
    return {key: scores[key] for key in ("l0", "fvu", "mcc")}


if __name__ == "__main__":
    run(whole)
