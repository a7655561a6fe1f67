"""Measures training over processes: rates next to one process, and the share of the time that exchanges take.

The states are planted, not trained, as in :mod:`benchmarks.gpu.steps`: as many latents are active as in a trained
dictionary. Runs with one process and with several alternate, because the machine's speed drifts.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from statistics import median
from typing import Any

import torch

from benchmarks.isolated import ProcessError, environment
from benchmarks.pool import Pool, planted
from sae.registry import config_class
from sae.training.config import TrainConfig
from sae.training.division import divide
from sae.training.loop import shapes_of, train_side_by_side
from sae.training.state import Member

STILL = 1e-12
"""The learning rate, so low that the state stays as it was planted."""
STRIDE = 5
"""Steps between two looks at the clock."""
HORIZON = 1_000_000
"""Steps that the schedules are made for."""


def efficiency(
    kind: str,
    d_in: int,
    n_latents: int,
    batch: int,
    l0: int,
    processes: int,
    threads: int,
    seconds: float,
    rounds: int,
    members: int,
    path: str,
) -> dict[str, Any]:
    """The median rates of one process with `threads` threads, of one with as many threads as all processes have, and of
    `processes` processes with `threads` each."""
    setting = {
        "kind": kind,
        "d_in": d_in,
        "n_latents": n_latents,
        "batch": batch,
        "l0": l0,
        "members": members,
        "path": path,
        "seconds": seconds,
    }
    together, alone, threaded = list[dict[str, Any]](), list[dict[str, Any]](), list[dict[str, Any]]()
    for _ in range(rounds):
        alone.append(in_processes(setting, 1, threads)[0])
        threaded.append(in_processes(setting, 1, threads * processes)[0])
        together.append(in_processes(setting, processes, threads)[0])
    rate = [median(found["samples_per_s"] for found in runs) for runs in (alone, threaded, together)]
    return {
        **setting,
        "processes": processes,
        "threads_per_process": threads,
        "basis": "measured",
        "alone_samples_per_s": rate[0],
        "alone_all_threads_samples_per_s": rate[1],
        "together_samples_per_s": rate[2],
        "speedup": rate[2] / rate[0],
        "speedup_of_rounds": [b["samples_per_s"] / a["samples_per_s"] for a, b in zip(alone, together, strict=True)],
        "of_as_many_threads": rate[2] / rate[1],
        "exchanging": median(found["exchanging"] for found in together),
        "l0_measured": together[-1]["l0_measured"],
        "rounds": rounds,
    }


def in_processes(setting: dict[str, Any], n: int, threads: int) -> list[dict[str, Any]]:
    """What :func:`rate` returns in each of `n` processes that train together."""
    with tempfile.TemporaryDirectory() as folder:
        started = list[subprocess.Popen[str]]()
        for rank in range(n):
            numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": n, "LOCAL_WORLD_SIZE": n}
            own = {name: str(number) for name, number in numbers.items()} | {"SAE_MEETING_FILE": f"{folder}/meeting"}
            command = [sys.executable, "-m", "benchmarks.isolated", "benchmarks.scale.measure:rate", str(threads)]
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(threads) | own
            )
            started.append(process)
            assert process.stdin is not None
            process.stdin.write(json.dumps(setting))
            process.stdin.close()
        output = [process.stdout.read() for process in started if process.stdout is not None]
        codes = [process.wait() for process in started]
    if any(codes):
        raise ProcessError(f"processes ended with exit codes {codes}")
    return [json.loads(text) for text in output]


def rate(
    kind: str, d_in: int, n_latents: int, batch: int, l0: int, members: int, path: str, seconds: float
) -> dict[str, Any]:
    """Samples per second of this process with the others that were started with it."""
    from pipelines.steps.joining import join_processes, own_device

    processes = join_processes()
    device = own_device()
    selects = kind in ("topk", "batchtopk")
    settings: dict[str, Any] = {"k": l0} if selects else {"l1": 1.0} if kind == "relu" else {"l0": float(l0)}
    if kind == "matryoshka":
        settings = {"k": l0}
    stack: list[Member] = [
        (config_class("dictionaries", kind)(n_latents=n_latents, **settings), i) for i in range(members)
    ]  # pyright: ignore[reportAssignmentType]
    constant = {"warm_up": 0.0, "decay": 0.0, "penalty_warm_up": 0.0, "resample_every": 0}
    config = TrainConfig(steps=HORIZON, batch_size=batch, log_every=STRIDE, n_scale=batch, lr=STILL, **constant)
    batches = planted(d_in, n_latents // 2, batch, max(1, l0 // 2), device)
    divisions = divide(shapes_of([stack]), processes)
    training = train_side_by_side([stack], Pool(batches), config, device, divisions=divisions)
    [state] = next(training)
    if kind not in ("topk", "batchtopk", "matryoshka"):
        saved = state.checkpoint()
        training.close()
        bias = torch.tensor(_bias(batches[0], saved["parameter.W_enc"], l0 / n_latents))
        bias = bias if processes.is_first else torch.zeros_like(bias)
        processes.sum_(bias)
        saved["parameter.b_enc"].fill_(float(bias)).add_(saved.get("parameter.threshold", 0.0))
        saved["is_sparse"].fill_(path == "sparse")
        training = train_side_by_side([stack], Pool(batches), config, device, [saved], divisions=divisions)
    for _ in range(2):
        [state] = next(training)
    processes.wait_for_all()
    before, began, steps = processes.seconds, time.perf_counter(), 0
    while not processes.any(time.perf_counter() - began > seconds):
        [state] = next(training)
        steps += STRIDE
    passed = time.perf_counter() - began
    records = state.records()
    return {
        "samples_per_s": steps * batch / passed,
        "exchanging": (
            processes.seconds - before + state.division.group.seconds * (state.division.group is not processes)
        )
        / passed,
        "l0_measured": sum(float(r["l0"]) for r in records) / len(records),
        "sparse": bool(state.is_sparse.all()),
    }


def _bias(x: torch.Tensor, W_enc: torch.Tensor, share: float) -> float:
    """The bias at which this share of the products is positive."""
    W = W_enc[0]
    rows = max(1, min(len(x), (1 << 20) // len(W)))
    return -float((x[:rows] @ W.mT).flatten().float().cpu().quantile(1 - share))
