"""Scores next to costs: the front by hand, the file, and the figure of many methods."""

from __future__ import annotations

import csv
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.text import Text

from pipelines.bench.comparison import Comparison
from pipelines.bench.cost_figure import draw_score_against_cost
from pipelines.bench.page import suite_pictures
from pipelines.bench.pareto import costed_entries, without_cost, write_frontier
from pipelines.report.settings_table import ScoredRow
from pipelines.report.style import FAINT, to_bytes
from tests.pipelines.bench.test_bench import compared, row


def methods(*given: tuple[str, float, float], scores: tuple[str, ...] = ("mcc",)) -> list[ScoredRow]:
    """Rows on three data sets of methods with a mean score and a training cost, all with a layer as the encoder."""
    rows: list[ScoredRow] = []
    for name, mean, flops in given:
        for d in range(3):
            values: dict[str, Any] = dict.fromkeys(scores, mean + 0.01 * (d - 1))
            rows.append(row(name, d, 0, **values, train_flops=float(flops), encoder_cost=1.0))
    return rows


def points_of(ax: Axes) -> list[tuple[tuple[float, float], Line2D]]:
    """The lines of a panel with a single point, its marks."""
    lines = [(np.asarray(line.get_xydata()), line) for line in ax.lines]
    return [((float(xy[0, 0]), float(xy[0, 1])), line) for xy, line in lines if len(xy) == 1]


def on_front(c: Comparison, score: str = "mcc", cost: str = "train_flops") -> dict[str, bool]:
    return {one.entry.family.label: one.on_front for one in costed_entries(c, score, cost)}


def test_a_method_is_on_the_front_unless_one_that_costs_no_more_is_as_good():
    c = compared(
        methods(("relu", 0.9, 100), ("topk", 0.8, 100), ("gated", 0.9, 200), ("ksvd", 0.95, 300), ("pca", 0.3, 5))
    )
    expected = {"pca": True, "relu": True, "topk": False, "gated": False, "ksvd": True}
    assert on_front(c) == expected and list(on_front(c)) == ["pca", "relu", "topk", "gated", "ksvd"]
    assert on_front(c, cost="encoder_cost") == {**dict.fromkeys(expected, False), "ksvd": True}


def test_equal_methods_are_both_on_the_front_whatever_the_rounding_of_their_costs():
    rows = [*methods(("relu", 0.9, 0.3), ("topk", 0.9, 0.3)), row("topk", 3, 0, mcc=0.9, train_flops=0.1 + 0.2)]
    assert on_front(compared(rows)) == {"relu": True, "topk": True}


def test_where_less_is_better_the_front_falls():
    c = compared(methods(("relu", 0.2, 10), ("topk", 0.1, 20), ("gated", 0.3, 30), scores=("fvu",)), by="fvu")
    assert on_front(c, "fvu") == {"relu": True, "topk": True, "gated": False}


def test_ceilings_are_on_no_front_and_methods_without_a_cost_are_named():
    rows = methods(("relu", 0.9, 10), ("random", 0.2, 0), ("oracle", 0.98, 1), ("topk", 0.8, float("nan")))
    c = compared(rows)
    assert on_front(c) == {"relu": True} and set(on_front(c, cost="encoder_cost")) == {"relu", "random", "topk"}
    assert [e.family.label for e in without_cost(c, "train_flops")] == ["topk", "random"]
    caption = {p.name: p.caption for p in suite_pictures(c, ())}["pareto"]
    assert "Left out: topk, random (zero or unknown: training FLOPs)." in caption


def test_the_file_has_every_method_with_the_interval_of_the_table(tmp_path: Path):
    write_frontier([compared(methods(("relu", 0.9, 10), ("topk", 0.8, 20)))], tmp_path / "frontier.csv")
    with (tmp_path / "frontier.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [(x["score"], x["cost"], x["method"], x["on_front"]) for x in lines] == [
        ("mcc", "train_flops", "relu", "yes"),
        ("mcc", "train_flops", "topk", "no"),
        ("mcc", "encoder_cost", "relu", "yes"),
        ("mcc", "encoder_cost", "topk", "no"),
    ]
    half = 4.302652730 * 0.01 / 3**0.5  # Student's t with two degrees of freedom
    first = {name: float(lines[0][name]) for name in ("cost_value", "mean", "low", "high", "n")}
    assert first == pytest.approx({"cost_value": 10, "mean": 0.9, "low": 0.9 - half, "high": 0.9 + half, "n": 3})


def test_the_figure_has_a_mark_for_each_method_the_front_and_the_ceilings():
    given = ("relu", 0.9, 10.0), ("topk", 0.8, 5.0), ("random", 0.2, 5.0), ("oracle", 0.97, 9.0)
    figure = draw_score_against_cost(compared(methods(*given, scores=("mcc", "f1"))))
    assert figure is not None and len(figure.axes) == 4
    marks = points_of(figure.axes[0])
    assert sorted(y for (_, y), _ in marks) == pytest.approx([0.2, 0.8, 0.9])
    assert [line.get_color() for (_, y), line in marks if y < 0.5] == [FAINT]
    assert sorted(x for (x, y), _ in marks if y > 0.5) == [5, 10], "the best of a cost stands at it"
    lines = {len(np.asarray(line.get_xydata())): np.asarray(line.get_xydata()) for line in figure.axes[0].lines}
    np.testing.assert_allclose(lines[4][:3], [[5, 0.8], [10, 0.8], [10, 0.9]])
    assert any(line.get_linestyle() == "--" for line in figure.axes[0].lines)
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["1  oracle (ceiling)", "2  relu", "3  topk", "4  random", "no method is better for less"]


def test_a_method_that_is_alone_in_its_panel_is_drawn():
    rows = methods(("relu", 0.9, 10), ("topk", 0.8, 20)) + [row("pca", d, 0, f1=0.4, train_flops=5.0) for d in range(3)]
    rows += [row("ica", d, 0, f1=0.5, encoder_cost=1.0) for d in range(3)]
    rows += [row("ksvd", d, 0, f1=0.5, encoder_cost=1.0) for d in range(3)]
    figure = draw_score_against_cost(compared(rows))
    assert figure is not None and [len(points_of(ax)) for ax in figure.axes] == [2, 2, 1, 2]


def test_nothing_to_show_gives_no_figure():
    assert draw_score_against_cost(compared([row("relu", 0, 0, mcc=0.5)])) is None
    assert draw_score_against_cost(compared(methods(("relu", 0.9, 10)))) is None


@pytest.mark.slow
def test_numbers_of_twenty_methods_cover_neither_each_other_nor_the_marks():
    rng = np.random.default_rng(0)
    given = [(f"m{i}", float(rng.choice([0.6, 0.9, 0.92])), float(rng.choice([1e9, 3e9, 1e12]))) for i in range(20)]
    figure = draw_score_against_cost(compared(methods(*given)))
    assert figure is not None
    to_bytes(figure, "svg")  # in the style of the report
    for ax in figure.axes:
        boxes = [Text.get_window_extent(text) for text in ax.texts if text.get_text()]
        assert len(boxes) == 20 and not any(a.overlaps(b) for a, b in combinations(boxes, 2))
        marks = [ax.transData.transform(place) for place, _ in points_of(ax)]
        assert len(marks) == 20 and not any(box.contains(*mark) for box in boxes for mark in marks)
