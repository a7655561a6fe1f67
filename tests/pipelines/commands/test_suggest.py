"""`sae suggest`: its suggestion on a source of known L0, its targets, and the files it writes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pipelines.commands import suggest
from pipelines.commands.suggest import SparsityCurve, draw_sweep, more_targets, sentence, target_grid
from pipelines.config.config import parse
from pipelines.report.settings_table import ScoredRow, settings_of
from pipelines.steps.progress import Board
from pipelines.steps.store import Store
from sae.analysis.suggestion import suggest as suggest_l0

SMALL: dict[str, Any] = {
    "name": "small",
    "source": {
        "kind": "features",
        "seed": 1,
        "n_features": 20,
        "d_in": 40,
        "activity": {"kind": "copula", "probability": 0.25, "correlation": {"kind": "random"}},
        "values": {"kind": "rectified_normal", "mu": 1.0, "sigma": 0.15},
        "directions": {"kind": "orthonormal"},
    },
    "dictionary": {"kind": "relu", "n_latents": 20, "l1": 0.1},
    "train": {"steps": 400, "batch_size": 512, "lr": 3e-3, "input_scale": "none", "centre": "none", "n_scale": 256},
    "score": {"n_rows": 2000},
    "runtime": {"device": "cpu", "threads": 1},
}
QUIET = Board(Console(quiet=True))


def curve_of(values: dict[int, list[float]], true_l0: float = math.nan, n_latents: int = 50) -> SparsityCurve:
    """A curve from decoder cosines by target, one value per seed."""
    rows = [
        ScoredRow(
            {"source": "s", "method": "batchtopk", "n_latents": n_latents, "target_l0": k, "seed": i, "data_seed": 0},
            {"decoder_cosine": v, "l0": float(k), "true_l0": true_l0},
        )
        for k, seeds in values.items()
        for i, v in enumerate(seeds)
    ]
    sweep = settings_of(rows)
    return SparsityCurve(sweep, suggest_l0(list(values), list(values.values())))


CLEAR = curve_of({4: [0.30, 0.31], 8: [0.05, 0.06], 16: [0.20, 0.21], 32: [0.3, 0.31]}, true_l0=8.4)
FLAT = curve_of({4: [0.1, 0.2], 8: [0.1, 0.2], 16: [0.1, 0.2]})
LOW = curve_of({4: [0.01, 0.02], 8: [0.1, 0.11], 16: [0.2, 0.21]})
HIGH = curve_of({4: [0.2, 0.21], 8: [0.1, 0.11], 16: [0.01, 0.02]})


@pytest.mark.usefixtures("shapes_unchecked")
def test_on_a_small_source_the_suggestion_is_within_fifteen_percent(tmp_path: Path):
    config = parse({**SMALL, "train": {**SMALL["train"], "seeds": [0, 1]}})
    [curve], folder = suggest.run(config, "batchtopk", [3, 4, 5, 6, 8], tmp_path, QUIET)
    assert curve.true_l0 == pytest.approx(5, abs=0.3)
    assert curve.suggestion.l0 == pytest.approx(curve.true_l0, rel=0.15), sentence(curve)
    [entry] = json.loads((folder / "suggestion.json").read_text())
    assert entry["l0"] == curve.suggestion.l0 and [s["target_l0"] for s in entry["sweep"]] == [3, 4, 5, 6, 8]
    assert {f.name for f in folder.iterdir()} == {f"suggestion.{form}" for form in ("json", "svg", "png")}


def test_a_grid_is_refined_and_a_second_call_trains_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    table = {**SMALL, "train": {**SMALL["train"], "steps": 20, "seeds": [3, 4]}}
    seen: list[list[int]] = []

    def add_one_target(curve: SparsityCurve) -> list[int]:
        seen.append([int(s.target_l0) for s in curve.sweep])
        return [11]

    monkeypatch.setattr(suggest, "more_targets", add_one_target)
    monkeypatch.setattr(suggest, "target_grid", lambda n_latents, d_in: [n_latents // 10, 5, d_in // 5])
    [curve], _ = suggest.run(parse(table), "batchtopk", None, tmp_path, QUIET)
    assert seen[0] == [2, 5, 8] and [s.target_l0 for s in curve.sweep] == [2, 5, 8, 11]
    assert all(len(s.members) == 2 for s in curve.sweep)

    steps = {f.name: f.stat().st_ino for f in tmp_path.iterdir() if f.name.startswith(("train", "score"))}
    [again], _ = suggest.run(parse(table), "batchtopk", [2, 8, 11], tmp_path, QUIET)
    assert {f.name: f.stat().st_ino for f in tmp_path.iterdir() if f.name in steps} == steps and len(steps) == 16
    assert [s.samples for s in again.sweep] == [s.samples for s in curve.sweep if s.target_l0 != 5]


def test_kinds_with_a_penalty_are_swept_by_their_target_and_keep_their_settings(tmp_path: Path):
    table = {**SMALL, "train": {**SMALL["train"], "steps": 60}, "name": "other"}
    table["dictionary"] = {"kind": "gated", "n_latents": [8, 16], "l0": 3, "decoder_bias": False}
    curves, folder = suggest.run(parse(table), "gated", [2, 3, 4], tmp_path, QUIET)
    assert [c.sweep[0].n_latents for c in curves] == [8, 16]
    assert {f.name for f in folder.glob("*.svg")} == {"suggestion-0.svg", "suggestion-1.svg"}
    manifests = [json.loads(f.read_text()) for f in Store(tmp_path).root.glob("train-*/manifest.json")]
    assert {m["config"]["dictionary"]["decoder_bias"] for m in manifests} == {False}


def test_the_grid_of_targets():
    assert target_grid(5, 20) == [1, 2, 3, 4]
    assert target_grid(50, 100)[0] == 1 and target_grid(50, 100)[-1] == 25
    real = target_grid(16_384, 768)
    assert len(real) == 8 and (real[0], real[-1]) == (12, 384)
    assert all(1 <= t <= n for n in range(3, 40) for t in target_grid(n, 7))


def test_targets_are_added_around_a_clear_minimum_or_beyond_an_end():
    assert more_targets(CLEAR) == [5, 6, 10, 13]
    assert more_targets(FLAT) == []
    assert more_targets(LOW) == [1, 2, 3] and all(t > 16 for t in more_targets(HIGH))
    assert more_targets(curve_of({10: [0.2, 0.21], 15: [0.1, 0.11], 20: [0.01, 0.02]}, n_latents=20)) == []


def test_sentences():
    assert sentence(CLEAR).startswith("suggested L0: ") and "the true L0 is 8.4 (" in sentence(CLEAR)
    assert sentence(FLAT).startswith("flat") and "true L0" not in sentence(FLAT)
    assert "end of the sweep, 4; add lower" in sentence(LOW)
    assert "end of the sweep, 16; add higher" in sentence(HIGH)


def test_the_figure_shows_seeds_suggestion_and_truth():
    (ax,) = draw_sweep(CLEAR).axes
    assert CLEAR.suggestion.l0 is not None
    assert [t.get_text().strip() for t in ax.texts] == ["true 8.4", f"suggested {CLEAR.suggestion.l0:.3g}"]
    dots = [tuple(map(float, xy)) for c in ax.collections if len(c.get_offsets()) == 2 for xy in c.get_offsets()]
    assert (8.0, 0.05) in dots and len(dots) == 8
    assert [t.get_text() for t in draw_sweep(FLAT).axes[0].texts] == []
