"""Figures of toy networks: None if there is nothing to show, else artists with the right data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb

from pipelines.report.portraits import _phases, _polytopes, _training, _weights
from pipelines.report.style import to_bytes
from sae.analysis.toy_models.by_active import Stratum

ANGLES = 2 * np.pi * np.arange(5) / 5
PENTAGON = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)


def weights(n: int, label: str = "") -> _weights.BottleneckWeights:
    product = np.random.default_rng(n).uniform(-1, 1, (n, n))
    bias, length = np.linspace(-0.5, 0, n), np.linspace(1, 0.1, n)
    return _weights.BottleneckWeights(label, product, bias, length, np.zeros(n), length > 0.5)


def neurons(W: np.ndarray, mono: list[bool]) -> _weights.NeuronWeights:
    share = (W**2).max(0) / (W**2).sum(0)
    return _weights.NeuronWeights("", W, share, np.array(mono, dtype=float))


def test_nothing_to_show_gives_no_figure():
    none, one = np.zeros((0, 2)), np.ones(1)
    assert _weights.draw_interference([]) is None
    assert _weights.draw_interference([weights(_weights.MOST_FEATURES + 1)]) is None
    assert _weights.draw_interference([weights(3)._replace(product=np.zeros((3, 4)))]) is None
    assert _weights.stacks([]) is None
    assert _weights.stacks([_weights.NeuronWeights("", np.zeros((3, 2)), np.full(2, np.nan), np.zeros(2))]) is None
    assert _polytopes.vectors([]) is None
    assert _polytopes.vectors([_polytopes.Vectors("", np.ones((4, 3)))]) is None
    assert (
        _polytopes.dictionaries_in_plane(PENTAGON, none, {}) is None
        and _polytopes.dictionaries_in_plane(PENTAGON, none, {"silent": none}) is None
    )
    assert _polytopes.dictionaries_in_plane(none, none, {"d": PENTAGON}) is None
    assert _polytopes.dimensionalities(one, [one], {}, "x") is None
    assert _polytopes.dimensionalities(np.arange(2.0), [np.zeros(0)] * 2, {}, "x") is None
    assert _phases.phase_diagram(one, np.array([0.1, 0.2]), np.zeros((2, 1, 4)), 2) is None
    assert _training.training(one, np.ones((1, 2)), [one], [""], (0, 0)) is None
    assert _training.draw_by_active([Stratum(1, 9, 0.1, 0.0)], {}) is None


@pytest.mark.parametrize("k", [1, 3])
def test_interference_shows_the_matrix_with_the_bias_beside_it_and_lengths_below(k: int):
    panels = [weights(12, f"p = {i}") for i in range(k)]
    figure = _weights.draw_interference(panels)
    assert figure is not None
    for panel, above, below in zip(panels, figure.axes[:k], figure.axes[k : 2 * k], strict=True):
        joined = np.ma.filled(above.images[0].get_array(), np.nan)
        np.testing.assert_allclose(joined[:, :12], panel.product)
        np.testing.assert_allclose(joined[:, -1], panel.bias)
        assert np.isnan(joined[:, 12]).all(), "a gap parts them"
        np.testing.assert_allclose([bar.get_width() for bar in below.patches], panel.length)
        assert above.get_title(loc="left") == panel.label
        assert below.get_title(loc="left") == f"{int((panel.length > 0.5).sum())} represented"


def test_a_stack_is_as_high_as_its_weights_and_signs_part_them():
    W = np.array([[0.0, 1.0, 0.6], [0.9, 0.0, -0.3], [0.0, 0.0, 0.2]])
    figure = _weights.stacks([neurons(W, [True, True, False])])
    assert figure is not None
    (ax,) = figure.axes
    assert ax.get_title(loc="left") == "2 of 3 neurons are monosemantic"
    up, down = np.zeros(3), np.zeros(3)
    for bar in ax.patches:
        k = round(bar.get_x() + 0.4)
        up[k], down[k] = max(up[k], bar.get_y() + bar.get_height()), min(down[k], bar.get_y() + bar.get_height())
    # One feature's first, by the feature: neuron 1 (feature 0), neuron 0 (feature 1), then the shared one.
    np.testing.assert_allclose(up, [1.0, 0.9, 0.8])
    np.testing.assert_allclose(down, [0.0, 0.0, -0.3])
    squares = [to_hex(c) for c in ax.collections[0].get_facecolor()]
    assert squares == [_weights.MONO.lower(), _weights.MONO.lower(), _weights.POLY.lower()]
    assert [t.get_text() for t in ax.texts] == ["1", "1", ".73"]


def test_wide_layers_are_thinned_and_small_weights_drawn_together():
    W = np.random.default_rng(0).uniform(0, 1, (200, 300))
    figure = _weights.stacks([_weights.NeuronWeights("", W, np.full(300, 0.5), np.ones(300))])
    assert figure is not None
    (ax,) = figure.axes
    assert len(ax.patches) == _weights.MOST_NEURONS * (_weights.MOST_WEIGHTS + 1)
    assert ax.get_title(loc="left") == "300 of 300 neurons are monosemantic"
    top = max(bar.get_y() + bar.get_height() for bar in ax.patches)
    assert np.isclose(W.sum(0), top).any(), "a bar is as high as its weights together"


def test_a_neuron_without_weights_comes_last_and_is_not_counted():
    W = np.array([[0.0, 1.0], [0.0, 0.0]])
    figure = _weights.stacks([_weights.NeuronWeights("", W, np.array([np.nan, 1.0]), np.array([0.0, 1.0]))])
    assert figure is not None and [t.get_text() for t in figure.axes[0].texts] == ["1"]
    assert figure.axes[0].get_title(loc="left") == "1 of 2 neurons are monosemantic"


def ends(ax: Any) -> np.ndarray:
    """The dots of vectors: artists of a single point with a round marker."""
    dots = [np.array(a.get_xydata()) for a in ax.lines if a.get_marker() == "o" and len(a.get_xydata()) == 1]
    return np.concatenate(dots)


def test_vectors_end_where_features_are_and_the_chosen_network_is_marked():
    panels = [_polytopes.Vectors(str(i), (1 + 0.1 * i) * PENTAGON) for i in range(3)]
    figure = _polytopes.vectors(panels, marked=1)
    assert figure is not None
    for i, ax in enumerate(figure.axes[:3]):
        np.testing.assert_allclose(ends(ax), panels[i].rows)
        colours = {a.get_color() for a in ax.lines if a.get_marker() == "o"}
        assert (colours == {_polytopes.FEATURE}) == (i == 1)
        np.testing.assert_allclose(ax.patches[0].get_xy()[:5].mean(0), 0, atol=1e-9)


def test_features_of_different_importance_differ_in_colour():
    figure = _polytopes.vectors([_polytopes.Vectors("", PENTAGON)], np.array([1.0, 0.9, 0.8, 0.7, 0.6]))
    assert figure is not None
    assert len({to_hex(a.get_color()) for a in figure.axes[0].lines if a.get_marker() == "o"}) == 5


def test_decoder_rows_are_arrows_over_the_features_a_panel_for_each_dictionary():
    figure = _polytopes.dictionaries_in_plane(
        1.13 * PENTAGON, 0.1 * PENTAGON, {"right": PENTAGON, "wrong": -PENTAGON[:3]}
    )
    assert figure is not None
    for ax, rows in zip(figure.axes, (PENTAGON, -PENTAGON[:3]), strict=True):
        dots = next(a for a in ax.lines if a.get_label() == "features")
        np.testing.assert_allclose(np.array(dots.get_xydata()), 1.13 * PENTAGON)
        arrows = np.array([t.xy for t in ax.texts])
        np.testing.assert_allclose(arrows / np.linalg.norm(arrows, axis=1, keepdims=True), rows, atol=1e-9)
        assert (np.linalg.norm(arrows, axis=1) > 1.13).all()
    assert [ax.get_title(loc="center") for ax in figure.axes] == ["right", "wrong"]


def test_dimensionalities_stand_at_their_level_and_are_counted():
    at, shares = np.array([1.0, 10.0, 100.0]), [np.zeros(0), np.full(40, 0.5), np.array([0.4, 0.4, 0.4, 1.0])]
    figure = _polytopes.dimensionalities(at, shares, {"digon": 0.5}, "x", star=np.array([1.0, 0.5, 0.4]), log=True)
    assert figure is not None
    (ax,) = figure.axes
    wide = [bar for bar in ax.patches if bar.get_width() > 0]
    assert len(wide) == 3
    for bar, (x, level) in zip(wide, ((10, 0.5), (100, 0.4), (100, 1.0)), strict=True):
        assert bar.get_y() - 1e-9 <= level <= bar.get_y() + bar.get_height() + 1e-9
        assert bar.get_x() < x < bar.get_x() + bar.get_width()
    texts = [t.get_text() for t in ax.texts]
    assert texts[:3] == ["0", "40", "4"] and set(texts[3:]) == {"digon", "D*"}


def test_a_feature_is_composed_of_phases():
    rows = [[[1.0], [0.0]], [[0.0], [1.0]], [[1.0], [-1.0]], [[0.7], [0.7]], [[1.0], [-0.5]]]
    parts = _phases.composition(np.array(rows))
    np.testing.assert_allclose(parts.sum(-1), 1)
    np.testing.assert_allclose(parts[:3], np.eye(4)[:3])
    np.testing.assert_allclose(parts[3], [0.3, 0.7 * 0.51, 0, 0.7 * 0.49])
    np.testing.assert_allclose(parts[4], [0.5, 0, 0.5, 0])


def test_what_is_expected_stands_in_the_order_of_importance_and_density():
    absent, alone, against = range(3)
    importance, density = np.array([0.2, 5.0]), np.array([0.01, 0.99])
    np.testing.assert_array_equal(_phases.expected(importance, density, 2), [[against, against], [absent, alone]])
    # Of three features in two dimensions the most important has one of its own, at any density.
    np.testing.assert_array_equal(_phases.expected(importance, density, 3), [[against, alone], [absent, alone]])


def test_the_phase_diagram_has_the_colours_of_what_was_trained():
    parts = np.zeros((2, 3, 4))
    parts[..., 0] = 1
    parts[1, 2] = [0, 1, 0, 0]
    parts[0, 0] = [0.5, 0, 0.5, 0]
    figure = _phases.phase_diagram(np.array([0.1, 1, 10]), np.array([0.01, 0.1]), parts, 2)
    assert figure is not None
    left, right = figure.axes
    cells = np.asarray(left.collections[0].get_array()).reshape(2, 3, 3)
    absent, alone, against = (np.array(to_rgb(c)) for c in list(_phases.PHASES.values())[:3])
    np.testing.assert_allclose(cells[1, 2], alone)
    np.testing.assert_allclose(cells[0, 0], (absent + against) / 2)
    least = np.asarray(right.collections[0].get_array()).reshape(-1, 3)
    assert {to_hex(c) for c in least} <= {to_hex(c) for c in _phases.PHASES.values()}
    assert figure.legends[0].get_texts()[-1].get_text() == "opposite another"


def test_the_instance_that_is_read_is_the_dark_one():
    step, history = np.arange(3.0), np.array([[3.0, 2, 1], [2, 1, 0.5], [1, 0.5, 0.1]])
    final = [np.array([0.5, 0.7, 0.1]), np.array([0.4, 0.3, 0.2])]
    figure = _training.training(step, history, final, ["p = 1", "p = 0.1"], (1, 0))
    assert figure is not None
    left, right = figure.axes
    (dark,) = [a for a in left.lines if a.get_color() == _training.CHOSEN]
    np.testing.assert_allclose(dark.get_ydata(), history[:, 0])
    (dot,) = [a for a in right.lines if a.get_color() == _training.CHOSEN]
    assert float(dot.get_ydata()[0]) == 0.4 and dot.get_xdata()[0] > 1
    assert [t.get_text() for t in right.get_xticklabels()] == ["1", "0.1"]
    alone = _training.training(step, history, final[:1], [""], (0, 1))
    assert alone is not None and list(alone.axes[1].lines[1].get_xydata()[0]) == [3, 0.7]


def test_errors_by_what_is_active_have_the_dictionary_beside_them_where_it_is_known():
    strata = [Stratum(0, 90, 0.0, 0.0), Stratum(1, 50, 0.1, 0.01), Stratum(2, 40, 0.3, 0.02)]
    alone, both = _training.draw_by_active(strata, {}), _training.draw_by_active(strata, {1: 0.05, 2: 0.2}, "relu")
    assert alone is not None and both is not None
    assert len(alone.axes) == 1 and len(both.axes) == 2
    np.testing.assert_allclose(both.axes[0].lines[0].get_ydata(), [0, 0.1, 0.3])
    np.testing.assert_allclose(both.axes[1].lines[0].get_xydata(), [[1, 0.05], [2, 0.2]])


@pytest.mark.parametrize("form", ["svg", "png"])
def test_the_same_data_give_the_same_bytes(form: str):
    first, second = (
        [to_bytes(figure, form) for figure in figures if figure is not None]
        for figures in (
            (
                _weights.draw_interference([weights(4)]),
                _weights.stacks([neurons(np.eye(3) + 0.1, [True, True, True])]),
                _polytopes.dictionaries_in_plane(PENTAGON, 0.3 * PENTAGON, {"d": PENTAGON}),
                _phases.phase_diagram(np.array([0.1, 1]), np.array([0.01, 0.1]), np.full((2, 2, 4), 0.25), 3),
            )
            for _ in range(2)
        )
    )
    assert len(first) == 4 and first == second
