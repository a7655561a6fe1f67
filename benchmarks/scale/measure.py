"""Measures training over processes: samples per second next to one process, and the share of the time in exchanges.

    python -m benchmarks.scale --kind relu --processes 2 --threads 1

The states are planted, not trained (:mod:`benchmarks.planted`). Runs with one process and with several alternate,
because the machine's speed drifts; every run is in new processes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Literal

import torch

from benchmarks.clock import settle
from benchmarks.isolated import ProcessError, environment
from benchmarks.lines import Line, emit
from benchmarks.planted import STILL, bias_for, plant_, settings_of
from benchmarks.pool import Pool, planted
from benchmarks.scale.setting import Kind
from sae.architecture import DictionaryConfig
from sae.registry import UserError, config_class
from sae.training.config import TrainConfig
from sae.training.input_scaling import InputStatistics
from sae.training.kernels.backend import kernels_for
from sae.training.loop import divide, train_side_by_side
from sae.training.state import Member, State

STRIDE = 2
"""Steps between two looks at the clock."""
HORIZON = 1_000_000
"""Steps that the schedules are made for."""


@dataclass(frozen=True)
class Measurement:
    """What is trained, and for how long."""

    kind: Kind
    """The architecture."""
    d_in: int
    """Width of the activations."""
    n_latents: int
    """Width of each dictionary."""
    batch: int
    """Samples per step over all processes."""
    k: int
    """Active latents per sample."""
    members: int
    """Dictionaries that are trained together."""
    path: Literal["dense", "sparse"]
    """The path of all steps, whatever the share of active latents."""
    seconds: float
    """How long a run is timed, at least."""


def measure(of: Measurement, processes: int, threads: int, rounds: int) -> Line:
    """Prints the median samples per second of one process with `threads` threads, of one process with as many threads
    as all have together, and of `processes` processes with `threads` threads each.

    Raises `UserError` where there is one process only, and `ProcessError` where a process fails.
    """
    if processes < 2:
        raise UserError(f"--processes = {processes}: a comparison with one process needs at least 2")
    if threads < 1 or rounds < 1:
        raise UserError(f"--threads = {threads}, --rounds = {rounds}: must be at least 1")
    alone, threaded, together = list[Line](), list[Line](), list[Line]()
    for _ in range(rounds):
        alone.append(in_processes(of, 1, threads))
        threaded.append(in_processes(of, 1, threads * processes))
        together.append(in_processes(of, processes, threads))
    rates = [[found["samples_per_s"] for found in runs] for runs in (alone, threaded, together)]
    one, all_threads, several = map(median, rates)
    line = {
        "name": "measured",
        **asdict(of),
        "processes": processes,
        "threads": threads,
        "rounds": rounds,
        "l0": together[-1]["l0"],
        "samples_per_s_alone": one,
        "samples_per_s_all_threads": all_threads,
        "samples_per_s": several,
        "speedup": several / one,
        "speedups": [b / a for a, b in zip(rates[0], rates[2], strict=True)],
        "efficiency": several / one / processes,
        "over_all_threads": several / all_threads,
        "exchanging": median(found["exchanging"] for found in together),
        "basis": "measured",
    }
    return emit("scale", line, together[-1]["device"])


def in_processes(of: Measurement, n: int, threads: int) -> Line:
    """What :func:`rate` returns in the first of `n` processes that train together."""
    with tempfile.TemporaryDirectory() as folder:
        started = [_start(rank, n, threads, f"{folder}/meeting") for rank in range(n)]
        for process in started:
            assert process.stdin is not None
            process.stdin.write(json.dumps(asdict(of)))
            process.stdin.close()
        output = [process.stdout.read() for process in started if process.stdout is not None]
        codes = [process.wait() for process in started]
    if any(codes):
        raise ProcessError(f"processes ended with exit codes {codes}")
    return json.loads(output[0])


def _start(rank: int, n: int, threads: int, meeting: str) -> subprocess.Popen[str]:
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": n, "LOCAL_WORLD_SIZE": n}
    own = {name: str(number) for name, number in numbers.items()} | {"SAE_MEETING_FILE": meeting}
    command = [sys.executable, "-m", "benchmarks.isolated", "benchmarks.scale.measure:rate", str(threads)]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(threads) | own
    )


def rate(**settings: Any) -> Line:
    """Samples per second of this process with the others that were started with it, and the share of exchanges.

    `settings` are those of a :class:`Measurement`.
    """
    from pipelines.steps.joining import join_processes, own_device

    of, processes, device = Measurement(**settings), join_processes(), own_device()
    kernels = type(kernels_for(torch.empty(1, device=device)))
    kernels.sparse_below = kernels.dense_above = 2.0 if of.path == "sparse" else 0.0
    config = config_class("dictionaries", of.kind)(**settings_of(of.kind, of.n_latents, of.k))
    assert isinstance(config, DictionaryConfig)
    members: list[Member] = [(config, seed) for seed in range(of.members)]
    constant: dict[str, Any] = {"warm_up": 0.0, "decay": 0.0, "penalty_warm_up": 0.0, "resample_every": 0}
    train = TrainConfig(steps=HORIZON, batch_size=of.batch, log_every=STRIDE, n_scale=of.batch, lr=STILL, **constant)
    pool = Pool(planted(of.d_in, of.n_latents // 2, of.batch, max(1, of.k // 2), device))
    divisions = divide([members], processes)
    statistics = InputStatistics.measure(pool, of.batch, of.batch, train.input_scale, False)
    saved = State.initial(members, pool, train, device, statistics, divisions[0]).checkpoint()
    # One bias for all, though each process has other latents to find it by.
    bias = bias_for(pool.batches[0], saved, of.k / of.n_latents)
    plant_(saved, of.kind, float(processes.from_first(torch.tensor(bias, dtype=torch.float64))))
    saved["is_sparse"].fill_(of.path == "sparse")
    training = train_side_by_side([members], pool, train, device, [saved], divisions=divisions)
    [state] = next(training)
    processes.wait_for_all()
    settle(device)
    groups = {processes, state.division.group}
    before, began, steps = sum(group.seconds for group in groups), time.perf_counter(), 0
    while not processes.any(time.perf_counter() - began > of.seconds):
        [state] = next(training)
        settle(device)
        steps += STRIDE
    passed = time.perf_counter() - began
    exchanging = sum(group.seconds for group in groups) - before
    if bool(state.is_sparse.all()) != (of.path == "sparse"):
        raise UserError(f"--path {of.path}: this shape is trained on the other path; use a larger one")
    records = state.records()
    return {
        "samples_per_s": steps * of.batch / passed,
        "exchanging": exchanging / passed,
        "l0": sum(float(record["l0"]) for record in records) / len(records),
        "device": device,
    }
