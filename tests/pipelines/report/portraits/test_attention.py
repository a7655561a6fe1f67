"""Figures of an attention toy: they exist and show the right data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from pipelines import runner
from pipelines.config.config import parse
from pipelines.plan import plan
from pipelines.report.portraits._losses import loss_bars
from pipelines.report.portraits.attention import draw, head_map, place_names, planes
from pipelines.report.style import to_bytes
from pipelines.steps.progress import Board
from pipelines.steps.store import Store
from sae.analysis.circuits.heads import ablations
from sae.sources.attention import AnswerPositions
from sae.toys.attention.addition import Addition
from sae.toys.attention.names import Names
from sae.toys.attention.recent import Recent
from sae.toys.attention.saved import held_out, load_toy

TINY: dict[str, Any] = {
    "name": "tiny",
    "source": {
        "kind": "attention",
        "task": {"kind": "addition", "n_digits": 2, "n_train": 300, "n_test": 100},
        "model": {"n_heads": 3, "d_head": 2, "d_model": 8},
        "training": {"steps": 30, "batch_size": 32, "lr": 1e-2},
        "hook": "blocks.0.attn.hook_z",
        "n_rows": 200,
        "n_heldout_rows": 100,
        "labels": ["carry"],
    },
    "dictionary": {"kind": "relu", "n_latents": 8, "l1": 0.1},
    "train": {"steps": 20, "batch_size": 32, "n_scale": 64},
    "baselines": {"kinds": ["random"]},
    "score": {"n_rows": 200, "metrics": ["reconstruction", "downstream", {"kind": "probing", "k": [1]}]},
    "report": {"best_by": "ce_recovered_mean"},
    "runtime": {"device": "cpu", "threads": 1},
}


def test_a_toy_goes_from_its_config_to_a_report_with_its_portrait(tmp_path: Path):
    config = parse(TINY)
    steps = plan(config)
    store = Store(tmp_path)
    runner.run(steps, store, runner.execution(config.runtime), Board(Console(quiet=True)))
    report = store.directory(steps[-1])
    for name in ("toy-loss", "toy-heads", "toy-planes"):
        assert list(report.rglob(f"{name}.png")) and list(report.rglob(f"{name}.svg"))
    source = next(store.directory(step) for step in steps if step.stage == "stream")
    drawn = {name: figure for name, _, _, figure in draw(source)}
    toy = load_toy(source)
    rows = AnswerPositions(toy.task, "answers")(held_out(toy.task, toy.seed))
    rise = ablations(toy.model, rows).loss_rise.numpy()
    heads = drawn["toy-heads"]
    assert heads is not None
    shown = np.asarray(heads.axes[0].images[0].get_array())
    order = [int(t.get_text()) for t in heads.axes[0].get_xticklabels()]
    np.testing.assert_allclose(shown, rise[order].T, rtol=1e-5)
    assert [t.get_text() for t in heads.axes[0].get_yticklabels()] == ["=0", "=1", "=2"]


def test_positions_have_the_names_of_their_groups():
    assert place_names(Addition(n_digits=2, n_train=100)) == ["a0", "a1", "b0", "b1", "=0", "=1", "=2"]
    assert place_names(Recent(length=5)) == ["0", "1", "2", "3", "4"]
    assert place_names(Names(length=5))[-1] == "end", "a group of one has no number"


def test_heads_are_in_the_order_of_their_effect_in_every_layer():
    rise = np.array([[[0.1], [3.0]], [[2.0], [-1.0]]])
    figure = head_map(rise, ["="])
    assert figure is not None
    labels = [[t.get_text() for t in ax.get_xticklabels()] for ax in figure.axes[:2]]
    assert labels == [["1", "0"], ["0", "1"]]
    assert head_map(np.zeros((1, 1, 3)), ["a", "b", "c"]) is None


def test_losses_are_bars_from_the_worst_down():
    figure = loss_bars({"model": 0.2, "floor": 0.0, "uniform": 2.0}, "answer")
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["uniform", "model", "floor"]
    assert [bar.get_width() for bar in figure.axes[0].patches] == pytest.approx([2.0, 0.2, 0.0])


def test_planes_show_every_point_and_are_the_same_every_time():
    points = np.arange(24.0).reshape(3, 4, 2)
    panels = {"keys": (points, {"a": ((0, 1), ("0", "1")), "b": ((2, 3), ("2", "3"))})}
    figure = planes(panels, [2, 0])
    dots = [line.get_xydata() for line in figure.axes[0].lines if line.get_marker() == "o"]
    np.testing.assert_array_equal(np.concatenate(dots), points[2])
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["head 2", "head 0"]
    assert to_bytes(figure, "svg") == to_bytes(planes(panels, [2, 0]), "svg")
