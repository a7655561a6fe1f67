"""Measures the peak memory of training, scoring and exploring by the width of the dictionary, each in a fresh process.

    python -m benchmarks.memory                     4,096 to 131,072 latents, in about an hour
    python -m benchmarks.memory --small             in a minute
    python -m benchmarks.memory score --rows 100000

Beside every peak stands what docs/memory.md states for it, from the same settings.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.isolated import call
from benchmarks.lines import Line, emit, note, run
from sae.metric import block_rows
from sae.numerics import memory as process_memory
from sae.numerics.active_codes import KEPT_CODE_BYTES
from sae.registry import UserError, unknown

WIDTHS = (4096, 16_384, 32_768, 65_536, 131_072)
K, N_FEATURES, N_ACTIVE = 32, 1024, 16


def memory(
    *stages: str,
    d_in: int = 768,
    rows: int = 4096,
    batch: int = 2048,
    threads: int = 1,
    widths: tuple[int, ...] = WIDTHS,
    small: bool = False,
) -> list[Line]:
    """Print the peak of every stage and width, and what is stated for it.

    Parameters
    ----------
    stages
        Of `train`, `score` (activations alone), `score-labels`, `score-truth` (true features and codes) and `explore`;
        without any, all.
    d_in
        Width of the activations.
    rows
        Samples that are scored or explored.
    batch
        Samples per training batch.
    threads
        Threads per process.
    widths
        Widths of the dictionaries.
    small
        Two narrow dictionaries in 64 dimensions on few samples.
    """
    if small:
        d_in, rows, batch, widths = 64, 600, 128, (256, 1024)
    for name in stages:
        if name not in STAGES:
            raise UserError(unknown(name, STAGES, "stage"))
    lines: list[Line] = []
    for name in stages or STAGES:
        for n_latents in widths:
            note(f"{name}: {d_in} -> {n_latents}")
            setting = {"d_in": d_in, "n_latents": n_latents, "rows": rows, "batch": batch}
            measured = call("benchmarks.memory:measure", {"name": name, **setting}, threads)
            stated = stated_bytes(name, **setting) / 1e9
            lines.append(emit("memory", {"name": name, **setting, "threads": threads, **measured, "stated_gb": stated}))
    return lines


def stated_bytes(name: str, d_in: int, n_latents: int, rows: int, batch: int) -> float:
    """The bound of docs/memory.md: bytes above the weights, or above the start for `train`, which makes them."""
    matrix, block = 4.0 * n_latents * d_in, 4.0 * n_latents * min(block_rows(n_latents), rows)
    if name == "train":
        return 6 * matrix + 2 * matrix + 3 * 4.0 * batch * n_latents + _RUNTIME
    if name == "explore":
        piece = 4.0 * n_latents * max(256, min(8192, 2**24 // n_latents))
        return matrix + 3 * 4.0 * 512 * n_latents + 5 * piece + 3000.0 * n_latents + _SHOWN + _PAIRS + _RUNTIME
    truth = 4.0 * (rows + d_in) * N_FEATURES if name == "score-truth" else 0
    inputs = 2 * (4.0 * rows * d_in + truth)
    return inputs + 2 * min(KEPT_CODE_BYTES, 4.0 * rows * n_latents) + 5 * block + matrix + _TABLES + _RUNTIME


_RUNTIME, _TABLES, _PAIRS, _SHOWN = 2e8, 3e8, 5e8, 2e8
"""Buffers of the libraries; tables of latents and features or labels; counts of co-firing pairs; shown latents."""


def measure(name: str, d_in: int, n_latents: int, rows: int, batch: int) -> Line:
    """The peak of one stage in this process, in GB above the weights and the loaded libraries, and its seconds."""
    STAGES[name](8, 64, 300, 32)()  # libraries, thread pools and compiled loops
    before = process_memory.held_bytes("cpu")
    work = STAGES[name](d_in, n_latents, rows, batch)
    weights = 0 if name == "train" else 8 * n_latents * d_in
    begin = time.perf_counter()
    work()
    seconds = time.perf_counter() - begin
    return {"peak_gb": max(0.0, process_memory.peak_bytes("cpu") - before - weights) / 1e9, "seconds": seconds}


def _train(d_in: int, n_latents: int, rows: int, batch: int) -> Callable[[], object]:
    from sae.dictionaries.topk import Config
    from sae.training.config import TrainConfig
    from sae.training.loop import train

    config = TrainConfig(steps=6, batch_size=batch)
    member = Config(n_latents=n_latents, k=min(K, n_latents))
    return lambda: list(train([(member, 0)], _source(d_in), config, "cpu"))


def _score(evidence: str) -> Callable[[int, int, int, int], Callable[[], object]]:
    def prepared(d_in: int, n_latents: int, rows: int, batch: int) -> Callable[[], object]:
        import sae

        d, given = _dictionary(d_in, n_latents), _given(d_in, rows, evidence)
        return lambda: sae.score(d, **given)

    return prepared


def _explore(d_in: int, n_latents: int, rows: int, batch: int) -> Callable[[], object]:
    from sae.analysis.latents import LatentsConfig, explore_latents

    d, settings = _dictionary(d_in, n_latents), LatentsConfig(n_tokens=rows)
    return lambda: explore_latents(d, _source(d_in), settings, _silent)


STAGES: dict[str, Callable[[int, int, int, int], Callable[[], object]]] = {
    "train": _train,
    "score": _score("nothing"),
    "score-labels": _score("labels"),
    "score-truth": _score("truth"),
    "explore": _explore,
}
"""What is measured, by name: a function of `d_in`, `n_latents`, `rows` and `batch` that prepares the work."""


def _silent(done: int, total: int, unit: str, **others: int) -> None:
    """Shows no progress."""


def _source(d_in: int) -> Any:
    from sae.sources.independent import Config

    return Config(n_features=N_FEATURES, d_in=d_in, probability=N_ACTIVE / N_FEATURES).build()


def _dictionary(d_in: int, n_latents: int) -> Any:
    """An untrained TopK dictionary, which costs what a trained one does."""
    from sae.dictionaries.topk import TopK

    W_dec = torch.randn(n_latents, d_in, generator=torch.Generator().manual_seed(0))
    W_dec /= W_dec.norm(dim=1, keepdim=True)
    return TopK(W_dec.T.contiguous(), W_dec, torch.zeros(n_latents), torch.zeros(d_in), k=min(K, n_latents))


def _given(d_in: int, rows: int, evidence: str) -> dict[str, Any]:
    """Samples, with two labels or with the true features and codes."""
    g = torch.Generator().manual_seed(1)
    features = torch.randn(N_FEATURES, d_in, generator=g)
    active = torch.randint(N_FEATURES, (rows, N_ACTIVE), generator=g)
    value = 0.2 + torch.rand(rows, N_ACTIVE, generator=g)
    pieces = zip(active.split(1024), value.split(1024), strict=True)
    given: dict[str, Tensor | dict[str, Tensor]] = {
        "x": torch.cat([(v[:, :, None] * features[i]).sum(1) for i, v in pieces])
    }
    if evidence == "labels":
        given["labels"] = {"is": (active == 3).any(1).long(), "class": active[:, 0] % 20}
    if evidence == "truth":
        given |= {"features": features, "codes": torch.zeros(rows, N_FEATURES).scatter_(1, active, value)}
    return given


if __name__ == "__main__":
    run(memory)
