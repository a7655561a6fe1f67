"""Figures: None if there is nothing to show, else the right data, and the same bytes every time."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from matplotlib.text import Text

from pipelines.report import figures
from pipelines.report.settings_table import ScoredRow, Setting, settings_of
from pipelines.report.sparsity_figure import draw_against_l0
from pipelines.report.style import marks, to_bytes


def settings(*methods: str, seeds: int = 3, **scores: float) -> list[Setting]:
    rows = [
        ScoredRow(
            {"source": "s", "method": method, "n_latents": n, "l1": l1, "seed": seed, "data_seed": 0},
            {name: value + 0.01 * seed for name, value in scores.items()} | {"l0": 10 / l1 + n / 100},
        )
        for method in methods
        for n in (16, 32)
        for l1 in (0.5, 1.0, 2.0)
        for seed in range(seeds)
    ]
    return settings_of(rows)


def test_nothing_to_show_gives_no_figure():
    nothing = np.zeros(0)
    assert draw_against_l0(settings("relu", fvu=0.1), "mcc", "mcc") is None
    assert draw_against_l0([], "fvu", "fvu") is None
    assert figures.heat_map(settings("relu", fvu=0.1)) is None
    assert figures.heat_map(settings("relu", mmcs_truth=0.5)[:1]) is None
    assert figures.cosine_matrix(np.zeros((0, 4)), np.zeros(0, dtype=np.int64), nothing) is None
    assert figures.recovery({}) is None and figures.recovery({"relu": (nothing, nothing)}) is None
    assert figures.densities({}, None) is None and figures.densities({"relu": np.zeros(5)}, None) is None
    assert figures.loss_curves({0.1: [[]]}, "l1") is None
    assert figures.bars(settings("relu", fvu=0.1), {"kl": "kl"}, "kl") is None


def test_the_heat_map_holds_the_means_of_both_directions():
    figure = figures.heat_map(settings("relu", mmcs_truth=0.5, mmcs_latents=0.25))
    assert figure is not None
    left, right = figure.axes[:2]
    np.testing.assert_allclose(left.images[0].get_array(), np.full((2, 3), 0.51))
    np.testing.assert_allclose(right.images[0].get_array(), np.full((2, 3), 0.26))
    assert [t.get_text() for t in left.get_yticklabels()] == ["32", "16"]


def test_the_cosine_matrix_puts_every_latent_in_the_column_of_its_feature():
    rng = np.random.default_rng(0)
    latent = rng.permutation(7)[:5]
    cosine = rng.uniform(-0.3, 0.3, (5, 7))
    cosine[np.arange(5), latent] = 0.9 + 0.01 * np.arange(5)
    figure = figures.cosine_matrix(cosine, latent, np.array([0.1, 0.5, 0.3, 0.4, 0.2]))
    assert figure is not None
    shown = np.asarray(figure.axes[0].images[0].get_array())
    np.testing.assert_allclose(np.diag(shown[:, :5]), [0.91, 0.93, 0.92, 0.94, 0.90])
    rest = shown[:, 5:].max(0)
    assert shown.shape == (5, 7) and rest[0] >= rest[1]


def test_features_without_a_latent_have_no_column():
    figure = figures.cosine_matrix(np.eye(3, 2), np.array([0, 1, -1]), np.array([0.3, 0.2, 0.1]))
    assert figure is not None
    np.testing.assert_array_equal(np.asarray(figure.axes[0].images[0].get_array()), np.eye(3, 2))


def test_values_off_the_scale_are_named_at_its_edge():
    figure = draw_against_l0([*settings("relu", fvu=0.3), *settings("random", fvu=12.0)], "fvu", "fvu", ceiling=1.2)
    assert figure is not None
    (ax,) = figure.axes
    assert max(float(np.max(line.get_ydata())) for line in ax.lines) <= 1.2
    assert any("random" in t.get_text() and "↑ 12" in t.get_text() for t in ax.texts)


def test_labels_of_a_crowd_cover_neither_each_other_nor_its_marks():
    """Ten methods at one sparsity with similar errors."""
    rows = [
        ScoredRow(
            {"source": "s", "method": f"method_{i}", "n_latents": 8, "seed": 0}, {"l0": 2.0, "fvu": 0.05 + i / 200}
        )
        for i in range(10)
    ]
    far = ScoredRow({"source": "s", "method": "random", "n_latents": 8, "seed": 0}, {"l0": 50.0, "fvu": 1.1})
    figure = draw_against_l0(settings_of([*rows, far]), "fvu", "fvu", ceiling=1.2)
    assert figure is not None
    (ax,) = figure.axes
    to_bytes(figure, "png")  # in the style of the report
    boxes = {t.get_text(): Text.get_window_extent(t) for t in ax.texts}  # without the line
    assert len(boxes) == 11
    assert not any(a.overlaps(b) for a, b in combinations(boxes.values(), 2))
    at = [line.get_xydata() for line in ax.lines]
    assert not any(box.contains(*ax.transData.transform(p[0])) for box in boxes.values() for p in at)


def test_every_method_keeps_its_own_colour_and_marker():
    look = marks([f"method {i}" for i in range(20)])
    assert len(set(look.values())) == len(look)
    look = marks(["relu", "topk", "gated", "oracle"])
    assert len(set(look.values())) == len(look)
    assert marks(["topk", "gated"])["topk"] == look["topk"]


def test_recovery_is_by_frequency_where_frequencies_differ():
    best = np.linspace(0.2, 1, 50)
    falling = figures.recovery({"relu, 9 latents": (np.geomspace(1e-3, 0.1, 50), best), "ica": (best, best)})
    equal = figures.recovery({"relu, 9 latents": (np.full(50, 0.1), best)})
    assert falling is not None and equal is not None
    assert falling.axes[0].get_xscale() == "log" and equal.axes[0].get_xscale() == "linear"
    np.testing.assert_allclose(equal.axes[0].lines[0].get_ydata(), best[::-1])


def test_dead_latents_are_counted_beside_the_histogram():
    figure = figures.densities({"relu, 4 latents": np.array([0.0, 0.1, 0.2, 0.1])}, np.array([0.1, 0.1]))
    assert figure is not None
    assert [t.get_text() for t in figure.legends[0].get_texts()][-1] == "relu, 4 latents (25% dead)"


@pytest.mark.parametrize("form", ["svg", "png"])
def test_the_same_data_give_the_same_bytes_and_no_date(form: str):
    first, second = (
        to_bytes(figure, form)
        for _ in range(2)
        if (figure := draw_against_l0(settings("relu", "ica", fvu=0.2), "fvu", "fvu")) is not None
    )
    assert first == second
    assert b"<dc:date>" not in first and b"Matplotlib" not in first
