"""Real processes, which exchange by gloo over the loopback: the exchanges, and training next to that of one process.

This file is also the program of the processes: ``python test_processes.py WORK FOLDER``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipelines.steps.joining import MEETING_FILE, join_processes
from sae.dictionary import Dictionary
from sae.numerics.processes import Processes
from sae.registry import config_class
from sae.scoring import score
from sae.source import Batch, Source, Split, TensorSource
from sae.sources.independent import Config as Independent
from sae.training.config import TrainConfig
from sae.training.kernels.cpu import Numba
from sae.training.loop import divide, train_side_by_side
from sae.training.state import Member

ROOT = Path(__file__).parents[2]
SECONDS = 300


def run_processes(work: str, n: int, folder: Path) -> None:
    """Runs a function of this file in `n` processes; fails with what they printed where one of them fails."""
    folder.mkdir(exist_ok=True)
    started = []
    for rank in range(n):
        numbers = {"RANK": str(rank), "WORLD_SIZE": str(n), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(n)}
        env = {**os.environ, **numbers, MEETING_FILE: str(folder / "meeting"), "OMP_NUM_THREADS": "1"}
        env["PYTHONPATH"] = os.pathsep.join([str(ROOT), env.get("PYTHONPATH", "")])
        command = [sys.executable, __file__, work, str(folder)]
        started.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    try:
        output = [process.communicate(timeout=SECONDS)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0] * n, "\n".join(output)


def exchanges(processes: Processes, folder: Path) -> None:
    rank, size = processes.rank, processes.size
    total, other = torch.full((2, 3), float(rank)), torch.tensor([1.0])
    processes.sum_(total, other)
    assert torch.equal(total, torch.full((2, 3), 3.0)) and float(other) == size
    strided = torch.arange(6.0).view(2, 3).T
    processes.sum_(strided)
    assert torch.equal(strided, 3 * torch.arange(6.0).view(2, 3).T)
    assert processes.numbers(rank + 0.5) == [0.5, 1.5, 2.5]
    assert processes.any(rank == 2) and not processes.any(False)
    rows = processes.gather_rows(torch.full((rank, 2), rank))
    assert [each.shape[0] for each in rows] == [0, 1, 2] and rows[2].unique().tolist() == [2]
    sent = processes.send_to_first(torch.arange(4).view(2, 2).bfloat16() if rank == 1 else None, 1)
    assert (sent is None) == (rank != 0) and (sent is None or sent.dtype == torch.bfloat16)
    message = "what to do, ünd more" if rank == 0 else ""
    assert processes.tell(message) == "what to do, ünd more"
    assert processes.part(3).size == 1 and processes.part(1) is processes


def test_exchanges(tmp_path: Path):
    run_processes("exchanges", 3, tmp_path)


KINDS: dict[str, dict[str, Any]] = {
    "relu": {"l1": 0.3},
    "gated": {"l1": 0.3},
    "jumprelu": {"l0": 4.0},
    "topk": {"k": 4},
    "batchtopk": {"k": 4},
    "matryoshka": {"k": 4},
    "transcoder": {"l1": 0.3},
}
N_LATENTS = 1024
"""With this batch the sparse path is open to kinds with levels and auxiliary losses too."""
SETTINGS = TrainConfig(
    steps=200, batch_size=256, lr=1e-3, log_every=50, resample_every=60, dead_after=30, resample_pool=512, n_scale=2048
)


def source_of(kind: str) -> Source:
    source = Independent(n_features=64, d_in=32, probability=0.03).build()
    if kind != "transcoder":
        return source
    x = source.batch(0, 20_000).acts
    turn = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(0))).Q
    return TensorSource(x, targets=x @ turn)


class LastBits(Source):
    """A source with another last bit in half of its activations, as sums in another order would give."""

    def __init__(self, source: Source, seed: int) -> None:
        self.source, self.seed, self.d_in, self.has_targets = source, seed, source.d_in, source.has_targets

    def batch(self, step: int, size: int, split: Split = "train") -> Batch:
        batch, draw = self.source.batch(step, size, split), torch.Generator().manual_seed(1000 * self.seed + step)
        factor = 1 + torch.finfo(torch.float32).eps * torch.randint(0, 2, batch.acts.shape, generator=draw)
        return Batch(batch.acts * factor, targets=batch.targets)


CONTROLS = (1, 2, 3)


def train_all(processes: Processes, folder: Path) -> None:
    """Trains every kind on both paths and saves its dictionary and scores; one process trains the controls too."""
    for kind in KINDS:
        for path in ("dense", "sparse"):
            train_one(processes, kind, path, source_of(kind), folder)
            for seed in CONTROLS if processes.size == 1 else ():
                train_one(processes, kind, path, LastBits(source_of(kind), seed), folder / str(seed))


def train_one(processes: Processes, kind: str, path: str, source: Source, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    Numba.sparse_below = Numba.dense_above = 1.0 if path == "sparse" else 0.0
    config = config_class("dictionaries", "relu" if kind == "transcoder" else kind)
    member: Member = config(n_latents=N_LATENTS, **KINDS[kind]), 0  # pyright: ignore[reportAssignmentType]
    [division] = divide([[member]], processes)
    *_, [state] = train_side_by_side([[member]], source, SETTINGS, divisions=[division])
    assert bool(state.is_sparse) == (path == "sparse"), (kind, path)
    for dictionary in state.dictionaries():
        save_file({name: t.contiguous() for name, t in dictionary.tensors().items()}, folder / f"{kind}-{path}.weights")
        (folder / f"{kind}-{path}.json").write_text(json.dumps(scores(kind, dictionary)))


def scores(kind: str, dictionary: Dictionary) -> dict[str, float]:
    source = source_of(kind)
    batch = source.batch(0, 4000, "test")
    evidence: dict[str, Any] = {"targets": batch.targets} if batch.targets is not None else {}
    if source.truth is not None:
        evidence |= {"features": source.truth.directions, "codes": batch.codes}
    # Not the families that count over thresholds (probing, coverage): there a sample on the other side is 1e-3 and
    # more.
    metrics = ["reconstruction", *(["recovery", "firing"] if source.truth is not None else [])]
    return score(dictionary, batch.acts, metrics=metrics, **evidence)


@pytest.fixture(scope="module")
def of_one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    run_processes("train_all", 1, folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 3, 4])
def test_training_by_processes_is_that_of_one(n: int, of_one: Path, tmp_path: Path):
    """After 200 steps weights are within 1e-4 of their norm and scores within 1e-3, for every kind on both paths.

    The gradient of an L1 penalty jumps where a code becomes zero, so that the last bit of one code decides at times,
    and Adam makes small gradients large: there the difference is of the size that other last bits of the
    activations make with one process.
    """
    run_processes("train_all", n, tmp_path)
    files = sorted(of_one.glob("*.weights"))
    assert len(files) == 2 * len(KINDS)
    worse: dict[str, tuple[float, float]] = {}
    for file in files:
        found, whole, *controls = (
            everything_of(at / file.name) for at in (tmp_path, of_one, *(of_one / str(seed) for seed in CONTROLS))
        )
        for name, value in whole.items():
            off, *by_chance = (difference(other[name], value) for other in (found, *controls))
            if off > max(1e-4 if isinstance(value, Tensor) else 1e-3, 10 * max(by_chance)):
                worse[f"{file.stem} {name}"] = off, max(by_chance)
    assert worse == {}


def everything_of(file: Path) -> dict[str, Tensor | float]:
    """The weights and the scores of a dictionary."""
    return {**load_file(file), **json.loads(file.with_suffix(".json").read_text())}


def difference(found: Any, expected: Any) -> float:
    """That of weights is relative to their norm, that of scores above 1 to the score."""
    if isinstance(expected, Tensor):
        return float((found - expected).norm() / expected.norm().clamp_min(1e-12))
    return 0.0 if found != found and expected != expected else abs(found - expected) / max(1.0, abs(expected))


if __name__ == "__main__":
    globals()[sys.argv[1]](join_processes(), Path(sys.argv[2]))
