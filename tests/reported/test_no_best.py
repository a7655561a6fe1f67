"""No dictionary is called the best by a score that is undefined, or of which neither more nor less is better."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from pipelines.bench.comparison import compare_methods
from pipelines.bench.words import comparison_sentences
from pipelines.report.findings import judge, no_best
from pipelines.report.settings_table import ScoredRow, deciding_score, read_csv, settings_of
from pipelines.stages.report import print_table

Call = Callable[..., tuple[int, str, str]]

DATA = {
    "constant": np.full((400, 4), 3.0, dtype=np.float32),
    "zero": np.zeros((400, 4), dtype=np.float32),
    "ten": np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32),
}


def rows(**scores: float) -> list[ScoredRow]:
    """Two methods with two seeds, whose scores differ."""
    identity = {"source": "s", "encoder": None, "n_latents": 8, "l1": 0.1, "target_l0": None, "data_seed": 0}
    return [
        ScoredRow({**identity, "method": m, "seed": i}, {n: v * (1 + i + 2 * j) for n, v in scores.items()})
        for j, m in enumerate(("relu", "topk"))
        for i in (0, 1)
    ]


@pytest.mark.usefixtures("shapes_unchecked")
@pytest.mark.parametrize("name", DATA)
def test_data_without_variance_has_no_best_dictionary(call: Call, tmp_path: Path, name: str):
    """On constant data `sae run` called the baseline with the largest l0 the best, and copied it to ``best/``."""
    np.save(tmp_path / "x.npy", DATA[name])
    config = tmp_path / "c.toml"
    config.write_text(
        f'name = "x"\n[source]\nkind = "tensor"\nfile = {json.dumps(str(tmp_path / "x.npy"))}\n'
        '[dictionary]\nkind = "relu"\nn_latents = 8\nl1 = [0.1, 1.0]\n[train]\nsteps = 5\nbatch_size = 32\n'
        'n_scale = 64\n[baselines]\nkinds = ["random"]\n[runtime]\ndevice = "cpu"\nthreads = 1\n'
    )
    code, told, _ = call("run", config, "--out", tmp_path / "out")
    words = " ".join(told.split())
    assert code == 0 and "No dictionary is called the best: mcc is undefined for every one" in words
    assert "best dictionary is" not in words and "best first" not in words and "not ranked" in words
    report = tmp_path / "out" / "x"
    assert not (report / "best").exists()
    page = (report / "report.html").read_text()
    assert "No dictionary is called the best" in page and "best first" not in page and "is selected by" not in page


@pytest.mark.parametrize("score", ["l0", "decoder_cosine", "threshold", "train_rows", "ce_mean"])
def test_a_score_without_a_better_direction_is_refused_before_any_work(
    call: Call, tiny_file: Path, tmp_path: Path, score: str
):
    """`report.best_by = "l0"` called the densest dictionary the best."""
    code, _, warned = call("run", tiny_file, "--set", f"report.best_by={score}", "--out", tmp_path / "out")
    assert code == 2 and f"report.best_by = '{score}': neither more nor less of it is better" in warned
    assert not (tmp_path / "out").exists()


def test_a_finished_report_that_was_ranked_by_such_a_score_still_opens(tmp_path: Path):
    """Reports of older runs have ``best_by = "l0"`` in their manifest: `sae show` named a best by it."""
    settings = settings_of(rows(l0=3.0))
    assert deciding_score(settings, "l0") == "l0" and judge(settings, "l0") is None
    assert "neither more nor less l0 is better" in no_best(settings, "l0")
    assert deciding_score(settings_of(rows(l0=3.0, fvu=0.1)), "l0") == "fvu"
    assert deciding_score(settings_of(rows(a_score_of_a_plugin=3.0)), "mcc") == "mcc", "nobody said that more is better"
    assert deciding_score(settings_of(rows(a_score_of_a_plugin=3.0)), "a_score_of_a_plugin") == "a_score_of_a_plugin"
    (tmp_path / "scores.csv").write_text(
        "source,method,encoder,n_latents,l1,target_l0,seed,data_seed,l0\ns,relu,,8,,,0,0,4\n"
    )
    (tmp_path / "manifest.json").write_text('{"config": {"best_by": "l0"}}')
    assert len(read_csv(tmp_path / "scores.csv")) == 1
    console = Console(width=200, record=True, quiet=False, file=(tmp_path / "told").open("w"))
    print_table(tmp_path, console)
    assert "No dictionary is called the best" in console.export_text()


def test_a_comparison_without_a_leader_says_so():
    """`sae bench` printed a table without a word where the score was undefined for every method."""
    found = rows(l0=3.0)
    c = compare_methods("s", settings_of(found), found, "mcc", None, lambda members: float("nan"))
    assert c.leader is None
    assert comparison_sentences(c) == [
        "No method is called the best: mcc is undefined for every one that is no ceiling."
    ]
