"""Rankings of columns, compared with naive implementations and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest

from sae.probing.rankers import RANKERS


def data(seed: int = 0, n: int = 300, columns: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Sparse columns of very different scales; columns 3 and 7 determine the class."""
    draw = np.random.default_rng(seed)
    x = draw.exponential(size=(n, columns)) * (draw.random((n, columns)) < 0.4) * np.geomspace(0.1, 10, columns)
    y = x[:, 3] / x[:, 3].std() + x[:, 7] / x[:, 7].std() + 0.3 * draw.normal(size=n) > 1
    return x.astype(np.float32), y


@pytest.mark.parametrize("name", RANKERS)
def test_a_ranking_gives_k_different_columns_and_longer_ones_go_on(name: str):
    x, y = data()
    found = RANKERS[name](x, y, 12, 0)
    assert sorted(found.tolist()) == list(range(12))
    short = RANKERS[name](x, y, 3, 0)
    assert len(short) == 3
    if name != "l1_logistic":  # its path stops at another penalty
        assert short.tolist() == found[:3].tolist()


@pytest.mark.parametrize("name", [n for n in RANKERS if n not in ("random", "mean_difference")])
def test_what_says_the_class_comes_first(name: str):
    assert set(RANKERS[name](*data(), 2, 0).tolist()) == {3, 7}


def test_mean_difference_by_hand():
    x, y = data()
    expected = np.argsort(-np.abs(x[y].mean(0) - x[~y].mean(0)), kind="stable")
    assert RANKERS["mean_difference"](x, y, 5, 0).tolist() == expected[:5].tolist()


def test_normed_mean_difference_does_not_see_scales():
    x, y = data()
    scale = np.random.default_rng(1).uniform(0.01, 100, 12).astype(np.float32)
    assert RANKERS["mean_difference_normed"](x, y, 4, 0).tolist() == (
        RANKERS["mean_difference_normed"](x * scale, y, 4, 0).tolist()
    )
    assert RANKERS["mean_difference"](x, y, 4, 0).tolist() != RANKERS["mean_difference"](x * scale, y, 4, 0).tolist()


def test_the_f_statistic_is_the_squared_t_of_the_classes():
    from scipy.stats import ttest_ind

    x, y = data()
    t = ttest_ind(x[y], x[~y]).statistic
    assert RANKERS["f_statistic"](x, y, 12, 0).tolist() == np.argsort(-(t**2)).tolist()


def test_mutual_information_sees_what_no_mean_does():
    draw = np.random.default_rng(0)
    x = draw.normal(size=(500, 6)).astype(np.float32)
    y = np.abs(x[:, 4]) > 0.7  # symmetric: the class means are alike
    assert RANKERS["mutual_information"](x, y, 1, 0).tolist() == [4]
    assert np.abs(x[y].mean(0) - x[~y].mean(0))[4] < 0.2


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_forward_selection_equals_the_greedy_least_squares_of_its_definition(seed: int):
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(60, 9)).astype(np.float32)
    y = draw.random(60) < 0.4
    scaled = ((x - x.mean(0)) / x.std(0)).astype(np.float64)
    target, chosen = y - y.mean(), list[int]()
    for _ in range(6):
        left = target
        if chosen:
            left = target - scaled[:, chosen] @ np.linalg.lstsq(scaled[:, chosen], target, rcond=None)[0]
        gain = np.abs(scaled.T @ left)
        gain[chosen] = -1
        chosen.append(int(gain.argmax()))
    assert RANKERS["forward"](x, y, 6, 0).tolist() == chosen


def test_forward_selection_takes_a_copy_of_a_column_last():
    x, y = data()
    twice = np.column_stack([x, x[:, 3]])
    found = RANKERS["forward"](twice, y, 13, 0).tolist()
    first, second = sorted((found.index(3), found.index(12)))
    assert first < 2 and second > 9


def test_columns_that_never_change_come_last():
    x, y = data()
    x[:, 5] = 2
    for name in ("f_statistic", "mutual_information", "mean_difference", "l1_logistic", "svm"):
        assert RANKERS[name](x, y, 12, 0)[-1] == 5, name


def test_random_columns_depend_on_the_seed_alone():
    x, y = data()
    assert RANKERS["random"](x, y, 4, 1).tolist() == RANKERS["random"](-x, ~y, 4, 1).tolist()
    assert len({tuple(RANKERS["random"](x, y, 4, seed).tolist()) for seed in range(20)}) > 15
