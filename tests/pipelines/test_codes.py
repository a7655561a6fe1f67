"""Reports on sources whose features are not directions."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from pipelines import runner
from pipelines.config.config import parse
from pipelines.plan import plan
from pipelines.report.findings import judge, sentences
from pipelines.report.portraits.code import draw, grouped, principal
from pipelines.report.settings_table import ScoredRow, read_csv, settings_of
from pipelines.steps.progress import Board
from pipelines.steps.source_steps import nonlinear
from pipelines.steps.store import Store
from sae.sources.code import Config

CODES: tuple[dict[str, Any], ...] = (
    {"kind": "scenario", "margin": 2.0},
    {"kind": "floor"},
    {"kind": "circle", "circles": 2, "points": 8, "width": 0.5, "probability": 0.5},
    {"kind": "hash", "values_each": 4},
)


@pytest.mark.parametrize("code", CODES, ids=lambda code: code["kind"])
def test_every_code_has_a_portrait(code: dict[str, Any], tmp_path: Path):
    config = Config(code=code)  # pyright: ignore[reportArgumentType]
    config.prepare(tmp_path, lambda done, total, unit: None, "cpu")
    manifest = {"config": {"source": config.model_dump(mode="json")}, "inputs": {}, "files": {}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    ((name, _, caption, figure),) = draw(tmp_path)
    assert name == "code" and figure is not None and len(figure.axes) == (2 if code["kind"] in ("floor", "hash") else 1)
    assert ("half-line" in caption) == (config.code.dimensions == 1)
    assert nonlinear(tmp_path) == config.nonlinear


@pytest.mark.parametrize("code", CODES[::2], ids=lambda code: code["kind"])
def test_a_run_is_scored_and_its_report_has_the_portrait_and_what_was_expected(
    code: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("sae.sources.code.N_LABELLED", 600)
    table = {
        "name": "tiny",
        "source": {"kind": "code", "code": code, "noise": 0.01},
        "dictionary": {"kind": "relu", "n_latents": [4, 8], "l1": 0.05},
        "train": {"steps": 20, "batch_size": 32},
        "score": {"n_rows": 600},
        "baselines": {"kinds": ["neurons"]},
        "report": {"best_by": "probe_auc_latent"},
        "runtime": {"device": "cpu"},
    }
    steps, store = plan(parse(table)), Store(tmp_path)
    runner.run(steps, store, runner.execution(parse(table).runtime), Board(Console(quiet=True)))
    out = store.directory(steps[-1])
    page = (out / "report.html").read_text()
    assert (out / "figures" / "code.png").stat().st_size > 5000
    assert ("No linear dictionary is expected" in page) == (code["kind"] != "scenario")
    for row in read_csv(out / "scores.csv"):
        assert {"probe_auc_latent", "probe_auc_nearest", "latents_per_feature", "fvu"} <= set(row.scores)
        assert ("mcc" in row.scores) == (code["kind"] == "scenario")
        assert ("subspace_cosine" in row.scores) == (code["kind"] == "circle")
    assert "false_recovery" not in page.split("How the scores are defined")[0], "a score that nobody has is not shown"


def rows(latent: float, **more: float) -> list[ScoredRow]:
    found: list[ScoredRow] = []
    for method, n, fvu in (("relu", 8, 0.2), ("relu", 32, 0.01), ("random", 8, 9.0)):
        identity = {"source": "code", "method": method, "n_latents": n, "l1": 0.1 if method == "relu" else None}
        scores = {"probe_auc_latent": latent if n == 8 else latent - 0.1, "probe_auc_nearest": 0.9, "fvu": fvu}
        if method == "random":
            scores["probe_auc_latent"] = 0.99
        own = {name: value * n for name, value in more.items()}
        found.append(ScoredRow({**identity, "seed": 0, "data_seed": 0}, scores | {"latents_per_feature": n / 4} | own))
    return found


def text_of(found: list[ScoredRow], why: str = "why") -> str:
    settings = settings_of(found)
    verdict = judge(settings, "probe_auc_latent")
    assert verdict is not None
    return " ".join(sentences(settings, verdict, why))


def test_what_came_of_the_expectation_is_told_of_trained_dictionaries():
    text = text_of(rows(0.7))
    assert (
        "No linear dictionary is expected to find these features: why. Single latents do not predict the labels: "
        "AUC 0.700" in text
    )
    assert "nearest neighbours on the activations reach 0.900" in text
    assert "The lowest fvu, 0.010, is that of relu, 32 latents, l1 = 0.1; its AUC is 0.600" in text
    assert "spread over 8.00 latents" in text and "subspace" not in text
    assert "Single latents predict the labels nevertheless: AUC 0.880" in text_of(rows(0.88))
    assert "No linear dictionary" not in text_of(rows(0.7), why="")


def test_findings_give_the_number_of_latents_per_subspace():
    assert "divided among 4.00 latents in dictionaries of 8, and among 16.0 in dictionaries of 32." in text_of(
        rows(0.9, latents_per_subspace=0.5)
    )
    assert "divided" not in text_of(rows(0.9, latents_per_subspace=0.0))


def test_bins_are_gathered_into_one_label():
    found = grouped({"a_bin_0": np.array([1, 0, 0]), "a_bin_1": np.array([0, 1, 0]), "b": np.array([2, 2, 3])})
    assert found["a"].tolist() == [0, 1, -1] and found["b"].tolist() == [2, 2, 3]


def test_principal_directions_carry_variance_and_point_one_way():
    draw = np.random.default_rng(0)
    line = draw.normal(size=(50, 1)) @ np.array([[3.0, -4.0, 0.0]]) + 7
    places, share = principal(line)
    assert places.shape == (50, 1) and share.tolist() == pytest.approx([1.0])
    assert places.std() == pytest.approx(np.linalg.norm(line - line.mean(0)) / math.sqrt(50))
    assert np.corrcoef(places[:, 0], line[:, 1])[0, 1] == pytest.approx(1), "the largest entry is positive"
