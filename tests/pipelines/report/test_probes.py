"""A probe study from a config: its steps, its files, the report, and invalid settings."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pipelines.config.config import parse
from pipelines.plan import plan
from pipelines.runner import execution, run
from pipelines.stages.report import print_table
from pipelines.steps.progress import Board
from pipelines.steps.store import Store

QUIET = Board(Console(quiet=True))
PROBE = {
    "regimes": ["standard", "scarcity", "shift"],
    "scarcity": [2, 4],
    "probes": ["lr", "diff_means"],
    "k": [1, 4],
    "n_settings": 1,
    "n_train": 200,
    "seeds": [0],
    "tasks": {"n_tasks": 3, "max_rows": 600, "shift": {"probability": 0.2}},
}


@pytest.fixture
def studied(tiny: dict[str, Any]) -> dict[str, Any]:
    return {**tiny, "dictionary": {**tiny["dictionary"], "l1": 0.1}, "baselines": {}, "probe": PROBE}


def do(table: dict[str, Any], out: Path) -> Path:
    config = parse(table)
    steps = plan(config)
    run(steps, Store(out), execution(config.runtime), QUIET)
    return Store(out).directory(steps[-1])


def test_from_a_config_to_the_answer(
    studied: dict[str, Any], tmp_path: Path, results: Callable[[Path], dict[str, str]]
):
    report = do(studied, tmp_path / "a")
    with (report / "probes.csv").open() as f:
        rows = list(csv.DictReader(f))
    assert {r["method"] for r in rows} == {"", "relu"} and {r["seed"] for r in rows} == {"", "0", "1"}
    assert {r["regime"] for r in rows} == {"standard", "scarcity", "shift"} and len({r["task"] for r in rows}) == 3
    assert {"lr", "shuffled", "neurons_k4", "k1", "latents_lr", "untrained_k4"} <= {r["probe"] for r in rows}
    assert all(r["val_auc"] == "" and r["why"] == "prior" for r in rows if r["n"] == "2")
    assert all(0 <= float(r["test_auc"]) <= 1 for r in rows)

    summary = json.loads((report / "probes.json").read_text())["independent"]
    assert summary["answers"] and all("over 3 tasks" in answer for answer in summary["answers"])
    assert {h["condition"]["regime"] for h in summary["helps"]} == {"standard", "scarcity", "shift"}
    page = (report / "report.html").read_text()
    assert (
        "Does a dictionary help a probe?" in page
        and "untrained_k1" in page
        and "How many samples a probe needs" in page
    )
    assert (report / "figures" / "probe-rows.svg").is_file()
    console = Console(record=True, width=200)
    print_table(report, console)
    assert summary["answers"][0] in " ".join(console.export_text().split())

    config = parse(studied)
    run(plan(config)[:-1], Store(tmp_path / "b"), execution(config.runtime), QUIET)
    assert results(tmp_path / "a") == results(tmp_path / "b") != {}


def test_another_penalty_probes_one_dictionary_more(studied: dict[str, Any], tmp_path: Path):
    first = {s.name for s in plan(parse(studied)) if s.stage in ("examples", "probe")}
    more = {**studied, "dictionary": {**studied["dictionary"], "l1": [0.1, 0.5]}}
    second = {s.name for s in plan(parse(more)) if s.stage in ("examples", "probe")}
    assert len(first) == 1 + 1 + 2 and first < second and len(second) == len(first) + 2


def test_without_the_table_nothing_changes(tiny: dict[str, Any]):
    assert not {s.stage for s in plan(parse(tiny))} & {"examples", "probe"}


def test_changed_labels_are_other_examples(tmp_path: Path, tiny_models: dict[str, Path]):
    (tmp_path / "text.txt").write_text("w1 w2.")
    table = {
        "name": "x",
        "source": {"kind": "transformer", "model": str(tiny_models["llama"]), "text": str(tmp_path / "text.txt"),
                   "hook": "blocks.0.hook_resid_post"},
        "baselines": {"kinds": ["pca"]},
        "probe": {"tasks": {"labels": [str(tmp_path / "y.csv")]}},
    }  # fmt: skip
    with pytest.raises(FileNotFoundError, match=r"probe.tasks.labels.0 = .*y.csv': does not exist"):
        plan(parse(table))
    names: list[str] = []
    for label in (0, 1):
        (tmp_path / "y.csv").write_text(f"text,y\nw1,{label}\n")
        names += [s.name for s in plan(parse(table)) if s.stage == "examples"]
    assert names[0] != names[1]
    del table["probe"]["tasks"]
    with pytest.raises(ValueError, match=r"probe: needs labels or known features, .*probe.tasks.labels"):
        plan(parse(table))


@pytest.mark.parametrize(
    ("probe", "words"),
    [
        ({"ks": [1]}, r"probe.ks: 'ks' is not a known key of \[probe\]: did you mean 'k'"),
        ({"rankers": ["means"]}, r"probe.rankers = .*'means' is not a known ranker"),
        ({"probes": ["svm"]}, r"probe.probes"),
        ({"regimes": ["shift"]}, r"probe.regimes: 'shift' needs a second distribution; set probe.tasks.shift"),
        (
            {"tasks": {"labels": ["a.csv"]}},
            r"probe.tasks.labels: only a source of kind 'transformer' or 'language' reads texts",
        ),
        ({"tasks": {"shift": {"probability": 2}}}, r"probe.tasks.shift"),
    ],
)
def test_mistakes_are_found_before_any_work(tiny: dict[str, Any], probe: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words) as caught:
        plan(parse({**tiny, "probe": probe}))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_the_local_study_runs_on_parts_of_speech(shared_data: Path, tmp_path: Path):
    from pipelines.config.config import read_config

    given = {
        "source.model": shared_data / "models" / "stories260k",
        "source.text": shared_data / "text" / "tinystories_train.txt",
        "source.labels": shared_data / "labels" / "en_ewt-ud-dev.conllu",
    }
    quick = ["source.n_tokens=60000", "train.steps=600", "probe.regimes=['standard']", "probe.probes=['lr']"]
    quick += ["probe.k=[1, 16]", "probe.seeds=[0]", "probe.n_settings=5"]
    file = Path(__file__).parents[2] / "configs" / "probes-local.toml"
    config = read_config(file, [*(f"{key}={value}" for key, value in given.items()), *quick])
    steps = plan(config)
    run(steps, Store(tmp_path), execution(config.runtime), QUIET)
    summary = json.loads((Store(tmp_path).directory(steps[-1]) / "probes.json").read_text())
    ((_, found),) = summary.items()
    auc = {o["method"]: o["auc"]["mean"] for o in found["outcomes"]}
    assert auc["lr"] > 0.85 and abs(auc["shuffled"] - 0.5) < 0.06
    assert auc["lr"] > auc["k16"] > auc["untrained_k16"] > 0.5
    shutil.rmtree(tmp_path)
