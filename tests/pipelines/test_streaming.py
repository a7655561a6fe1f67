"""Runs on activations that are computed as training reads them: several hook points in one pass, and interruptions."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from pipelines.config.config import parse
from pipelines.plan import plan
from pipelines.runner import group_of
from pipelines.stages import train
from tests.interruptions import interrupted_at
from tests.pipelines.test_runner import work
from tests.streaming import words

Results = Callable[[Path], dict[str, str]]
HOOKS = ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]


@pytest.fixture(scope="module")
def table(tiny_models: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    text = words(tmp_path_factory.mktemp("text") / "text.txt", 300)
    return {
        "name": "streamed",
        "source": {"kind": "transformer", "model": str(tiny_models["llama"]), "text": str(text), "separator": "|",
                   "hook": HOOKS, "context": 16, "heldout_share": 0.3, "cache": "none", "window_tokens": 500},
        "dictionary": {"kind": "relu", "n_latents": 32, "l1": [0.1, 0.5]},
        "train": {"seeds": [0], "steps": 60, "batch_size": 64, "log_every": 10, "n_scale": 64},
        "score": {"n_rows": 400, "metrics": ["reconstruction"]},
        "runtime": {"device": "cpu", "threads": 1, "checkpoint_seconds": 0},
    }  # fmt: skip


def test_hook_points_share_one_group_in_both_stages_only_without_a_cache(table: dict[str, Any]):
    steps = plan(parse(table))
    for stage, n_steps in (("stream", 2), ("train", 4)):
        of_stage = [step for step in steps if step.stage == stage]
        assert len(of_stage) == n_steps and len({group_of(step) for step in of_stage}) == 1
    cached = plan(parse({**table, "source": {**table["source"], "cache": "disk"}}))
    assert len({group_of(step) for step in cached if step.stage == "stream"}) == 1
    assert len({group_of(step) for step in cached if step.stage == "train"}) == 2


def test_an_interrupted_run_ends_on_the_same_bytes_and_so_does_a_hook_point_alone(
    table: dict[str, Any], tmp_path: Path, results: Results
):
    whole, stopped, alone = (tmp_path / name for name in ("whole", "stopped", "alone"))
    work(table, whole)
    with pytest.raises(KeyboardInterrupt), pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "write_checkpoint", interrupted_at(4, train.write_checkpoint))
        work(table, stopped)
    assert list((stopped / ".scratch").glob("train-*/checkpoint.safetensors"))
    work(table, stopped)
    assert results(stopped) == results(whole)
    work({**table, "source": {**table["source"], "hook": HOOKS[0]}}, alone)
    made = {name: digest for name, digest in results(alone).items() if not name.startswith("score")}
    assert len(made) > 4 and results(whole).items() > made.items()


KILLED = """
import json, sys
from pathlib import Path
from tests.pipelines.test_runner import work
work(json.loads(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.mark.slow
def test_a_run_killed_at_ten_random_moments_ends_on_the_same_bytes(
    table: dict[str, Any], tmp_path: Path, results: Results
):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    longer = {**table, "train": {**table["train"], "steps": 3000, "log_every": 50}}
    began = time.monotonic()
    work(longer, whole)
    seconds, rng = time.monotonic() - began, random.Random(0)
    command = [sys.executable, "-c", KILLED, json.dumps(longer), str(killed)]
    kills = 0
    while kills < 10:
        process = subprocess.Popen(command, cwd=Path(__file__).parents[2])
        try:
            process.wait(6 + rng.uniform(0, seconds / 4))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
        else:
            assert process.returncode == 0
            break
    subprocess.run(command, cwd=Path(__file__).parents[2], check=True)
    assert kills >= 5
    assert results(killed) == results(whole)
