"""`sae.run` and `sae.bench`: what the commands do, from Python."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sae
from pipelines import cli
from pipelines.config.python_tables import toml_values
from pipelines.report.style import to_bytes
from pipelines.steps.progress import Board
from sae.dictionaries.topk import Config as TopK
from sae.training.config import TrainConfig


@pytest.fixture
def config() -> dict[str, Any]:
    """The same as `TOML`, from Python."""
    return {
        "name": "tiny",
        "source": {"kind": "independent", "n_features": 16, "d_in": 8, "probability": 0.1},
        "dictionary": {"kind": "relu", "n_latents": 16, "l1": np.array([0.1, 0.5])},
        "train": {"seeds": (0, 1), "steps": 60, "batch_size": 32, "log_every": 10, "n_scale": 64},
        "baselines": {"kinds": ["random", "neurons"]},
        "score": {"n_rows": 400, "metrics": ["reconstruction", "recovery"]},
        "runtime": {"device": "cpu", "threads": 1, "checkpoint_seconds": 0},
    }


TOML = """
name = "tiny"
source = {kind = "independent", n_features = 16, d_in = 8, probability = 0.1}
dictionary = {kind = "relu", n_latents = 16, l1 = [0.1, 0.5]}
train = {seeds = [0, 1], steps = 60, batch_size = 32, log_every = 10, n_scale = 64}
baselines = {kinds = ["random", "neurons"]}
score = {n_rows = 400, metrics = ["reconstruction", "recovery"]}
runtime = {device = "cpu", threads = 1, checkpoint_seconds = 0}
"""


def test_a_run_gives_scores_dictionaries_figures_and_a_page(
    config: dict[str, Any], tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("FORCE_COLOR", "1")  # as in a notebook
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    r = sae.run(config, out=tmp_path)
    assert capfd.readouterr() == ("", ""), "quiet where stderr is no terminal"
    assert list(r.scores.columns[:3]) == ["source", "method", "encoder"] and len(r.scores) == 4 + 2 + 1
    found = r.dictionaries()
    assert [d.identity["method"] for d in found] == list(r.scores["method"])
    assert [d.identity["l1"] for d in found[:4]] == list(r.scores["l1"][:4]) == [0.1, 0.1, 0.5, 0.5]
    assert [d.scores["mcc"] for d in found] == list(r.scores["mcc"])
    best = r.best
    assert any(torch.equal(best.W_dec, d.load().W_dec) for d in found)
    assert r.report.is_file() and r.report == tmp_path / "tiny" / "report.html"
    pictures, figures = r.pictures(), r.figures()
    assert set(figures) == set(pictures) > {"l0-fvu", "recovery"}
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in pictures.values())
    drawn_again = {name: to_bytes(figures[name], "svg") for name in ("l0-fvu", "recovery")}
    png, size = figures["l0-fvu"]._repr_png_()  # as a notebook does
    assert png.startswith(b"\x89PNG") and size == {"width": 560, "height": 400}
    assert drawn_again == {name: pictures[name].with_suffix(".svg").read_bytes() for name in drawn_again}
    assert figures["l0-fvu"].get_facecolor() == (1, 1, 1, 1) and figures["l0-fvu"].axes[0].get_ylabel() == "fvu"
    page, text = r._repr_html_(), str(r)
    assert page.count("<tr>") == 1 + 4 and "mcc" in page and "neurons" in page and "<script" not in page
    assert "mcc" in text and text.endswith(str(r.report)) and "7 dictionaries" in repr(r)


def test_the_command_and_the_call_share_their_steps(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    file = tmp_path / "tiny.toml"
    file.write_text(TOML)
    monkeypatch.setattr(sys, "argv", ["sae", "run", str(file), "--out", str(tmp_path / "a"), "--set", "train.steps=20"])
    cli.main()
    printed = capsys.readouterr().out
    r = sae.run(file, set={"train.steps": 20}, out=str(tmp_path / "a"))
    assert str(r.report) in printed and printed.count("mcc") > 0
    again = sae.run(config, set=["train.steps=20"], out=tmp_path / "a")
    names = {path.name for path in (tmp_path / "a").glob("*-*") if not path.name.startswith("report")}
    assert {path.name for path in (*r.made.values(), *again.made.values())} <= names
    assert [d.path for d in again.dictionaries()] == [d.path for d in r.dictionaries()]
    page = r.report.read_bytes()
    sae.run(config, set={"train.steps": 20, "dictionary.l1": 0.1}, out=tmp_path / "a")  # takes the name of the run
    assert r.report.read_bytes() == page, "the page of this run, not of the one that has its name now"


def test_stderr_may_be_no_file(config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for stream in (types.SimpleNamespace(write=len, flush=lambda: None), None):
        monkeypatch.setattr(sys, "stderr", stream)
        sae.fit(torch.rand(40, 4), n_latents=4, l1=0.1, steps=2)
        assert sae.run(config, {"train.steps": 2, "dictionary.l1": 0.1, "train.seeds": 0}, tmp_path).report.is_file()


def test_values_of_python_are_those_of_toml(config: dict[str, Any]):
    assert toml_values(config) == tomllib.loads(TOML)
    objects = {"dictionary": [TopK(n_latents=16, k=k) for k in (1, 2)], "train": TrainConfig(steps=9), "ask": None}
    tables = [{"kind": "topk", "n_latents": 16, "k": k} for k in (1, 2)]
    assert toml_values(objects) == {"dictionary": tables, "train": {"steps": 9}}


def test_a_suite_is_compared(config: dict[str, Any], tmp_path: Path):
    r = sae.bench({**config, "tiers": {"fast": {"train": {"steps": 20}}}}, out=tmp_path)
    assert r.report == tmp_path / "tiny-fast" / "bench.html" and r.report.is_file()
    assert len(r.scores) == 7 and len(r.dictionaries()) == 7 and "bytes" in r.scores
    assert "<table>" in r._repr_html_() and "neurons" in str(r)
    with pytest.raises(sae.UserError, match="choose one of dictionaries"):
        _ = r.best
    figures = r.figures()
    assert set(figures) == set(r.pictures()) and "seeds-mcc" in figures
    assert to_bytes(figures["seeds-mcc"], "svg") == r.pictures()["seeds-mcc"].with_suffix(".svg").read_bytes()


def test_several_suites_are_planned_before_any_work(config: dict[str, Any], tmp_path: Path):
    small = {
        **config,
        "train": {**config["train"], "steps": 20, "seeds": [0]},
        "dictionary": {"kind": "topk", "n_latents": 16, "k": 2},
    }
    with pytest.raises(sae.UserError, match="stepps"):
        sae.bench([small, {**small, "train": {"stepps": 3}}], out=tmp_path)
    with pytest.raises(sae.UserError, match="name a suite"):
        sae.bench([], out=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_several_suites_are_compared_one_after_another(config: dict[str, Any], tmp_path: Path):
    runs = sae.bench([config, {**config, "name": "other"}], out=tmp_path)
    assert [r.name for r in runs] == ["tiny", "other"] and all(r.report.is_file() for r in runs)
    assert runs[0].report != runs[1].report and [d.path for d in runs[0].dictionaries()] == [
        d.path for d in runs[1].dictionaries()
    ]


@pytest.mark.slow
def test_figures_of_several_sources_have_names_of_their_own(config: dict[str, Any], tmp_path: Path):
    r = sae.run(config, {"source.probability": [0.1, 0.2], "train.steps": 20, "dictionary.l1": 0.5}, tmp_path)
    assert {"source-0/recovery", "source-1/recovery"} <= set(r.figures())
    assert set(r.figures()) == set(r.pictures())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"set": {"train.stepps": 3}}, "did you mean 'steps'"),
        ({"set": {"name.x": 3}}, "'name' is a value, not a table"),
        ({"set": ["train.steps"]}, "not key.path=value"),
        ({"set": 3}, "set: give a dict"),
        ({"set": {"train.lr": float("nan")}}, "set.train.lr: float nan"),
        ({"tier": "fats"}, "not a known tier"),
        ({"config": 3}, "give a TOML file"),
        ({"config": "demoo"}, "demo"),
        ({"config": {"name": "x", "source": {"kind": "independent", "n_features": torch.nn.ReLU()}}}, "ReLU"),
        ({"config": {"name": "x", 3: 4}}, "the key 3 is no text"),
    ],
)
def test_mistakes_are_user_errors(config: dict[str, Any], tmp_path: Path, change: dict[str, Any], words: str):
    with pytest.raises(sae.UserError, match=words):
        sae.run(change.get("config", config), change.get("set"), tmp_path, change.get("tier"))
    assert not list(tmp_path.iterdir()), "before any work"


def test_progress_is_shown_on_request_and_the_users_threads_stay(
    config: dict[str, Any], tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
):
    torch.set_num_threads(2)
    monkeypatch.setattr(Board, "QUICK_SECONDS", 0.0)
    sae.run(config, {"dictionary.l1": 0.1, "train.steps": 20}, tmp_path, progress=True)
    assert torch.get_num_threads() == 2
    out, err = capfd.readouterr()
    assert out == "" and "report: tiny: done in" in err


def test_import_stays_light():
    program = """
import sys, sae
heavy = {"pandas", "matplotlib", "transformer_lens", "transformers", "datasets", "rich", "pipelines", "sklearn"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
assert "run" in dir(sae) and callable(sae.run)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(__file__).parents[1]
    )
    assert done.returncode == 0, done.stderr
