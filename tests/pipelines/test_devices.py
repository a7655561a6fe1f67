"""`sae run --devices N`: several processes train and score together, through the command as a user runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from pipelines.commands.launch import without_option
from pipelines.steps.checkpoint import Facts, Timing, find_checkpoint, write_checkpoint
from sae.dictionaries.matryoshka import Config as Matryoshka
from sae.dictionaries.relu import Config as Relu
from sae.numerics.processes import ALONE, Processes
from sae.sources.independent import Config as Independent
from sae.training.config import TrainConfig
from sae.training.loop import divide, train_side_by_side
from sae.training.state import Member
from tests.threads_as_processes import run_as_processes

ROOT = Path(__file__).parents[2]
CONFIG = """
name = "together"
[source]
kind = "independent"
n_features = 64
d_in = 32
probability = 0.03
[[dictionary]]
kind = "relu"
n_latents = 96
l1 = [0.3, 1.0]
[[dictionary]]
kind = "batchtopk"
n_latents = 96
k = 2
[train]
seeds = 0
steps = STEPS
batch_size = 128
log_every = 20
n_scale = 1024
resample_every = 150
dead_after = 100
[baselines]
kinds = ["pca", "oracle"]
[score]
n_rows = 4000
metrics = ["reconstruction", "recovery"]
[runtime]
checkpoint_seconds = 0
device = "cpu"
"""


def command(config: Path, out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "pipelines", "run", str(config), "--out", str(out), *more]


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def run(config: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(config, out, *more), env=environment(), capture_output=True, text=True, timeout=300)


def written(tmp_path: Path, steps: int) -> Path:
    file = tmp_path / "together.toml"
    file.write_text(CONFIG.replace("STEPS", str(steps)))
    return file


def weights(out: Path) -> dict[str, Tensor]:
    files = out.glob("train-*/dictionary/dictionary.safetensors")
    return {f"{file.parent.parent.name} {name}": t for file in files for name, t in load_file(file).items()}


def scores(out: Path) -> dict[str, dict[str, float]]:
    """The scores that are defined, by the name of the step."""
    found = {file.parent.name: json.loads(file.read_text())["scores"] for file in out.glob("score-*/scores.json")}
    return {step: {name: value for name, value in row.items() if value is not None} for step, row in found.items()}


def assert_alike(out: Path, expected: Path) -> None:
    """Weights within 1e-4 of their norm, scores within 1e-3, under the same keys."""
    found, wanted = weights(out), weights(expected)
    assert found.keys() == wanted.keys() and len(wanted) >= 15
    worst = {n: float((found[n] - t).norm() / t.norm().clamp_min(1e-9)) for n, t in wanted.items()}
    assert {name: value for name, value in worst.items() if value > 1e-4} == {}
    assert scores(out).keys() == scores(expected).keys()
    for name, row in scores(expected).items():
        assert scores(out)[name] == pytest.approx(row, rel=1e-3, abs=1e-3, nan_ok=True), name


def until_checkpoint(process: subprocess.Popen[str], out: Path, of_size: int) -> None:
    deadline = time.monotonic() + 240
    while not any(f"-of-{of_size}." in file.read_text() for file in out.glob(".scratch/*/checkpoint.json")):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.05)


def children(pid: int) -> list[int]:
    """The processes that train, in the order in which they were started."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_run_by_two_then_three_then_one_is_that_of_one(tmp_path: Path):
    """One process of each of the first two runs is killed with -9: the others end within 20 seconds, with one line."""
    config = written(tmp_path, 300)
    assert run(config, tmp_path / "one").returncode == 0
    out = tmp_path / "together"
    for n in (2, 3):
        with subprocess.Popen(
            command(config, out, "--devices", str(n)), env=environment(), stderr=subprocess.PIPE, text=True
        ) as process:
            until_checkpoint(process, out, n)
            of_run = children(process.pid)
            assert len(of_run) == n
            os.kill(of_run[-1], signal.SIGKILL)
            killed = time.monotonic()
            _, errors = process.communicate(timeout=60)
            assert time.monotonic() - killed < 20
            assert process.returncode not in (0, None)
            assert f"process {n} of {n} was ended by SIGKILL" in errors.splitlines()[-1]
            assert "Traceback" not in errors
        assert not any(Path(f"/proc/{pid}").exists() for pid in of_run)
        [scratch] = out.glob(".scratch/*/checkpoint.json")
        assert find_checkpoint(scratch.parent)[0] is not None
    assert run(config, out).returncode == 0
    assert_alike(out, tmp_path / "one")
    assert not list(out.glob(".scratch/*"))


@pytest.mark.slow
def test_sigterm_writes_a_checkpoint_and_ends_all(tmp_path: Path):
    config, out = written(tmp_path, 4000), tmp_path / "out"
    with subprocess.Popen(
        command(config, out, "--devices", "2", "--set", "runtime.checkpoint_seconds=1000"),
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        deadline = time.monotonic() + 240
        while not list(out.glob("train-*.partial/log.jsonl")) and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    assert errors.count("stopped by SIGTERM; the next run continues at step") == 1
    assert len(list(out.glob(".scratch/*/checkpoint-*-of-2.safetensors"))) == 2


@pytest.mark.slow
def test_the_command_gives_the_same_and_prints_once(tmp_path: Path):
    config = written(tmp_path, 100)
    alone, together = run(config, tmp_path / "one"), run(config, tmp_path / "two", "--devices=2")
    assert (together.returncode, alone.returncode) == (0, 0), together.stderr
    assert_alike(tmp_path / "two", tmp_path / "one")
    assert together.stdout.count("report: ") == 1
    mistake = run(config, tmp_path / "two", "--devices", "2", "--set", "train.steps=-1")
    assert mistake.returncode == 2 and len(mistake.stderr.splitlines()) == 1
    assert run(config, tmp_path / "two", "--devices", "0").returncode == 2


def test_the_option_is_taken_out_of_the_command():
    words = ["run", "x.toml", "--devices", "4", "--set", "a=--devices", "--devices=2", "--out", "--devices"]
    assert without_option(words, "--devices") == ["run", "x.toml", "--set", "a=--devices", "--out"]


MEMBERS: list[Member] = [(Relu(n_latents=21, l1=l1), 0) for l1 in (0.1, 0.5, 1.0)]
NESTED: list[Member] = [(Matryoshka(n_latents=20, k=2, levels=(8, 20)), 1)]
KEYS = [["a", "b", "c"], ["d"]]


def state_of(processes: Processes):
    source = Independent(n_features=8, d_in=6, probability=0.2).build()
    settings = TrainConfig(steps=4, batch_size=16, n_scale=32, log_every=2, average=0.5)
    divisions = divide([MEMBERS, NESTED], processes)
    states = next(train_side_by_side([MEMBERS, NESTED], source, settings, divisions=divisions))
    return divisions, states


@pytest.mark.parametrize(("writers", "readers"), [(1, 2), (2, 1), (3, 4), (4, 2)])
def test_a_checkpoint_is_read_by_any_number_of_processes(writers: int, readers: int, tmp_path: Path):
    def write(processes: Processes) -> None:
        _, states = state_of(processes)
        # As after one process, so that what is read can be compared to the bit.
        for state, whole in zip(states, expected, strict=True):
            division = state.division
            for name, t in state.stack.tensors().items():
                own = whole[f"parameter.{name}"][list(division.members)]
                t.copy_(own[:, division.latents] if t.shape != own.shape else own)
        write_checkpoint(tmp_path, states, Facts(KEYS, Timing(2.0, 32), {"a": "hash"}), processes)

    expected = [state.checkpoint() for state in state_of(ALONE)[1]]
    run_as_processes(writers, write) if writers > 1 else write(ALONE)
    checkpoint, damaged = find_checkpoint(tmp_path)
    assert checkpoint is not None and not damaged and checkpoint.step == 2
    assert checkpoint.facts == Facts(KEYS, Timing(2.0, 32), {"a": "hash"})
    assert checkpoint.holds([["c", "a"]]) and not checkpoint.holds([["x"]])

    def read(processes: Processes):
        divisions, _ = state_of(processes)
        return [(d, checkpoint.tensors(keys, d)) for keys, d in zip(KEYS, divisions, strict=True)]

    for found in run_as_processes(readers, read) if readers > 1 else [read(ALONE)]:
        for (division, tensors), whole in zip(found, expected, strict=True):
            assert tensors.keys() == whole.keys()
            for name in (name for name in tensors if name.startswith("parameter")):
                own = whole[name][list(division.members)]
                own = own[:, division.latents] if own.shape != tensors[name].shape else own
                assert torch.equal(tensors[name], own), name


def test_a_checkpoint_with_a_damaged_part_is_not_continued_from(tmp_path: Path):
    run_as_processes(2, lambda p: write_checkpoint(tmp_path, state_of(p)[1], Facts(KEYS), p))
    [part, _] = sorted(tmp_path.glob("checkpoint-*.safetensors"))
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    assert find_checkpoint(tmp_path) == (None, [part])
