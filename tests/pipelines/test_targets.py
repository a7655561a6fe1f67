"""Runs on sources with targets, from the config to the scores."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file

import sae
from pipelines.config.config import parse
from pipelines.plan import plan
from pipelines.runner import execution, run
from pipelines.steps.progress import Board
from pipelines.steps.step import Step
from pipelines.steps.store import Store
from sae.registry import UserError
from tests.transcoding import Mlp


def work(table: dict[str, Any], out: Path) -> list[Step]:
    config = parse(table)
    steps = plan(config)
    run(steps, Store(out), execution(config.runtime), Board(Console(file=StringIO())))
    return steps


def linear_scores(steps: list[Step], out: Path) -> dict[str, float]:
    step = next(s for s in steps if s.stage == "score" and s.config["row"]["method"] == "linear")
    return json.loads((out / step.name / "scores.json").read_text())["scores"]


def test_pairs_of_a_file(tiny: dict[str, Any], tmp_path: Path):
    source = Mlp(d_in=8)
    batch = source.batch(0, 1000)
    save_file({"x": batch.acts, "y": batch.wanted}, tmp_path / "pairs.safetensors")
    tiny["source"] = {"kind": "tensor", "file": str(tmp_path / "pairs.safetensors"), "target": "y"}
    tiny |= {"baselines": {"kinds": ["linear"]}, "score": {"n_rows": 200}}
    steps = work(tiny, tmp_path / "runs")
    for step in (s for s in steps if s.stage == "train"):
        d = sae.load(tmp_path / "runs" / step.name)
        assert d.card["source"]["target"] == "y"  # the card names what it predicts
        assert d.encode(torch.zeros(2, 8)).shape == (2, d.n_latents)
    scores = linear_scores(steps, tmp_path / "runs")
    assert 0 < scores["fvu"] < 0.5  # most of this small MLP is linear, but not all


@pytest.mark.parametrize("order", ["forward", "backward"])
def test_two_hooks_of_a_model(tiny: dict[str, Any], tmp_path: Path, tiny_models: dict[str, Path], order: str):
    text = tmp_path / "text.txt"
    text.write_text("|".join(f"w{i % 37} w{i % 11} w{i % 7} w{i % 23}" for i in range(900)))
    hooks = ["blocks.1.mlp.hook_in", "blocks.1.mlp.hook_out"]
    hook, target = hooks if order == "forward" else hooks[::-1]
    tiny["source"] = {"kind": "transformer", "model": str(tiny_models["llama"]), "text": str(text), "hook": hook,
                      "target": target, "separator": "|", "context": 16}  # fmt: skip
    tiny |= {"baselines": {"kinds": ["linear"]}, "score": {"n_rows": 200}}
    if order == "backward":
        with pytest.raises(UserError, match=r"source\.target: target .* comes before hook"):
            work(tiny, tmp_path / "runs")
        return
    scores = linear_scores(work(tiny, tmp_path / "runs"), tmp_path / "runs")
    assert 0 < scores["fvu"] < 1 and {"ce_recovered_mean", "ce_recovered_zero", "kl"} <= scores.keys()
