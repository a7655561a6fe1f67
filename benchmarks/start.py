"""Times `sae plan` and `sae status` on a folder with a large source, against the same folder without it.

python -m benchmarks.start --gb 20
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from benchmarks.lines import Line, emit, note, run

CONFIG = """name = "start"
[source]
kind = "tensor"
file = "{file}"
[dictionary]
kind = "relu"
n_latents = 64
l1 = 0.1
"""
ROWS_PER_SHARD = 65_536


def start(*, gb: float = 20.0, d_in: int = 768, repeats: int = 5, cache: Path = Path("runs/bench")) -> list[Line]:
    """Print one result: the seconds of each command with the large source, and without.

    Parameters
    ----------
    gb
        Size of the source's shards in `cache`.
    d_in
        Width of the activations, in bfloat16.
    repeats
        Times that each command is run; the medians count.
    cache
        Folder for the steps, which are written once.
    """
    folder = cache.absolute() / f"start-{gb:g}-{d_in}"
    config, steps = prepare(folder, gb, d_in)
    note(f"{steps}: {gb:g} GB")
    line: Line = {"name": "sae-start", "gb": gb, "d_in": d_in}
    for command in ("plan", "status"):
        times: dict[str, list[float]] = {"full": [], "empty": []}
        for _ in range(repeats):
            for name, out in (("empty", folder / "empty"), ("full", steps)):
                began = time.perf_counter()
                arguments = [command, str(config), "--out", str(out)]
                subprocess.run([sys.executable, "-m", "pipelines", *arguments], check=True, capture_output=True)
                times[name].append(time.perf_counter() - began)
        line |= {f"{command}_{name}_s": round(median(each), 3) for name, each in times.items()}
        line[f"{command}_more_s"] = round(line[f"{command}_full_s"] - line[f"{command}_empty_s"], 3)
    return [emit("start", line)]


def prepare(folder: Path, gb: float, d_in: int) -> tuple[Path, Path]:
    """A config whose finished source step holds that many bytes of shards; the config and the folder of the steps."""
    import numpy as np
    import torch

    from pipelines.config.config import read_config
    from pipelines.plan import plan
    from pipelines.steps.known_hashes import save_known
    from pipelines.steps.store import Store
    from sae.activations.shards import write_shard
    from sae.numerics.seeds import generator

    folder.mkdir(parents=True, exist_ok=True)
    config, store = folder / "start.toml", Store(folder / "full")
    if not (folder / "acts.npy").is_file():
        np.save(folder / "acts.npy", np.zeros((100, 8), np.float32))
    config.write_text(CONFIG.format(file=folder / "acts.npy"))
    step = next(step for step in plan(read_config(config)) if "source" in step.config)
    if store.done(step):
        return config, store.root
    store.create()
    out = store.partial(step)
    out.mkdir(exist_ok=True)
    acts = torch.randn(ROWS_PER_SHARD, d_in, generator=generator("benchmark start", 0)).bfloat16()
    for k in range(max(1, round(gb * 1e9 / acts.nbytes))):
        write_shard(out / f"train-{k:05d}.safetensors", {"acts": acts})
    store.commit(step, "cpu", 0.0)
    save_known(store.root)
    return config, store.root


if __name__ == "__main__":
    run(start)
