"""Encoders and refinement in a config: a row for each, fitted in separate steps."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import sae
from pipelines import runner
from pipelines.config.config import parse
from pipelines.plan import plan
from pipelines.steps.progress import Board
from pipelines.steps.step import Step
from pipelines.steps.store import Store
from sae.registry import UserError

Given = dict[str, Any]


@pytest.fixture
def several(tiny: Given) -> Given:
    """A config of one dictionary and its refinement, each with four encoders, and two seeds."""
    dictionary = {**tiny["dictionary"], "l1": 0.1, "refine": {"steps": 2, "batch_size": 128}}
    encoders = ["own", "fista", {"kind": "omp", "k": [1, 2]}]
    metrics = ["reconstruction", "recovery", "firing", "cost"]
    return {**tiny, "dictionary": dictionary, "encoder": encoders, "score": {"n_rows": 400, "metrics": metrics}}


def run(table: Given, out: Path) -> tuple[list[Step], list[dict[str, str]]]:
    config = parse(table)
    steps = plan(config)
    runner.run(steps, Store(out), runner.execution(config.runtime), Board(Console(quiet=True)))
    with (Store(out).directory(steps[-1]) / "scores.csv").open() as f:
        return steps, list(csv.DictReader(f))


def test_every_dictionary_is_a_row_for_every_encoder(several: Given, tmp_path: Path):
    steps, rows = run(several, tmp_path)
    assert list(rows[0])[:8] == [
        *("source", "method", "encoder", "n_latents", "l1", "target_l0", "seed", "data_seed"),
    ]
    encoders = ["own", "fista", "omp k=1", "omp k=2"]
    for method, n_seeds in (("relu", 2), ("relu+refine", 2), ("random", 2), ("neurons", 1)):
        assert [r["encoder"] for r in rows if r["method"] == method] == encoders * n_seeds
    by_encoder = {r["encoder"]: r for r in rows if r["method"] == "relu" and r["seed"] == "1"}
    assert len({r["mcc"] for r in by_encoder.values()}) == 1, "the decoders are the same"
    assert len({r["f1"] for r in by_encoder.values()}) > 1, "the codes differ"
    cost = {name: float(r["encoder_cost"]) for name, r in by_encoder.items()}
    assert cost["own"] == 1 < cost["omp k=1"] < cost["omp k=2"] < cost["fista"]
    assert float(by_encoder["omp k=1"]["l0"]) <= 1
    encode = next(s for s in steps if s.stage == "encode" and s.config["encoder"]["kind"] == "fista")
    d = sae.load(Store(tmp_path).directory(encode))
    assert d.kind == "fista" and d.card["encoder"] == encode.config["encoder"]
    stages = [s.stage for s in steps]
    assert stages == sorted(stages, key=["generate", "train", "refine", "encode", "score", "report"].index)


def test_running_again_does_nothing_and_elsewhere_writes_the_same_bytes(several: Given, tmp_path: Path, results: Any):
    several["encoder"] = ["own", {"kind": "threshold", "n_rows": 256, "layer": "learned", "steps": 5}]
    run(several, tmp_path / "a")
    before = {f: f.stat().st_mtime_ns for f in (tmp_path / "a").rglob("*.safetensors")}
    run(several, tmp_path / "a")
    assert before == {f: f.stat().st_mtime_ns for f in (tmp_path / "a").rglob("*.safetensors")}
    run(several, tmp_path / "b")
    assert results(tmp_path / "a") == results(tmp_path / "b")


def test_without_encoders_nothing_is_added(tiny: Given):
    steps = plan(parse(tiny))
    assert {s.stage for s in steps} == {"generate", "train", "score", "report"}
    assert {s.config["row"]["encoder"] for s in steps if s.stage == "score"} == {None}


def test_the_trained_encoder_may_be_left_out(several: Given):
    several["encoder"] = "fista"
    steps = plan(parse(several))
    assert sum(s.stage == "train" for s in steps) == sum(s.stage == "encode" for s in steps) - 2, "two are refined"
    assert {s.config["row"]["encoder"] for s in steps if s.stage == "score"} == {"fista"}


def test_an_encoder_changes_no_other_keys(several: Given):
    def keys(stage: str) -> set[str]:
        return {s.key for s in plan(parse(several)) if s.stage == stage}

    before = {stage: keys(stage) for stage in ("train", "refine", "encode")}
    several["encoder"] = ["own", {"kind": "fista", "l1": 0.02}]
    assert keys("train") == before["train"] and keys("refine") == before["refine"]
    assert not keys("encode") & before["encode"]
    several["dictionary"]["refine"] = {"steps": 3}
    assert keys("train") == before["train"] and not keys("refine") & before["refine"]


def test_a_sweep_over_refinements_is_labelled(several: Given):
    several["dictionary"]["refine"] = {"steps": [2, 3]}
    methods = {s.config["row"]["method"] for s in plan(parse(several)) if s.stage == "score"}
    assert methods == {"relu", "relu+refine steps=2", "relu+refine steps=3", "random", "neurons"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"encoder": ["fist"]}, ["encoder", "did you mean 'fista'"]),
        ({"encoder": [{"kind": "omp", "kk": 2}]}, ["encoder.kk", "key of [encoder]"]),
        ({"encoder": [{"kind": "omp", "k": 0}]}, ["encoder.k = 0"]),
        ({"dictionary": {"kind": "relu", "n_latents": 4, "l1": 1, "refine": 3}}, ["dictionary.refine = 3", "true"]),
        ({"dictionary": {"kind": "relu", "n_latents": 4, "l1": 1, "refine": {"step": 3}}}, ["did you mean 'steps'"]),
    ],
)
def test_mistakes_are_errors_before_any_work(tiny: Given, change: Given, words: list[str]):
    with pytest.raises(UserError) as caught:
        parse({**tiny, **change})
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)


def test_a_row_of_the_report_names_its_encoder(several: Given, tmp_path: Path):
    steps, _ = run(several, tmp_path)
    page = (Store(tmp_path).directory(steps[-1]) / "report.html").read_text()
    assert "relu+refine (fista)" in page and "encoder_<wbr>cost" in page
    manifest = json.loads((Store(tmp_path).directory(steps[-1]) / "manifest.json").read_text())
    assert manifest["config"]["config"]["encoder"] == several["encoder"]
    assert torch.isfinite(sae.load(Store(tmp_path).directory(steps[-1]) / "best").W_dec).all()
