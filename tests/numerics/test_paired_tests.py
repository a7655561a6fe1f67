"""Data sets and seeds as random effects, paired comparisons: closed forms, simulated coverage, agreement with scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from sae.numerics.paired_tests import holm, nested_bootstrap, nested_mean, paired, variance_parts
from sae.numerics.statistics import mean_interval


def test_three_seeds_on_five_data_sets_are_five_values() -> None:
    groups = [[1.0, 1.2, 0.8], [2.0, 2.1, 1.9], [3.0, 3.0, 3.0], [4.0, 4.5, 3.5], [5.0, 5.0, 5.0]]
    assert nested_mean(groups) == mean_interval([1.0, 2.0, 3.0, 4.0, 5.0])


def test_a_single_data_set_has_the_interval_of_its_seeds() -> None:
    assert nested_mean([[1.0, 2.0, 4.0]]) == mean_interval([1.0, 2.0, 4.0])


def test_what_is_not_finite_is_left_out() -> None:
    groups = [[1.0, math.nan], [math.nan], [3.0, 3.0]]
    assert nested_mean(groups).n == 2
    assert nested_mean(groups).mean == 2.0
    assert math.isnan(nested_mean([[math.nan]]).mean)


def test_variance_parts_by_hand() -> None:
    # means 1 and 5, grand mean 3: MS_between = 2 * (4 + 4) / 1 = 16, MS_within = (1 + 1 + 1 + 1) / 2 = 2, n_0 = 2.
    parts = variance_parts([[0.0, 2.0], [4.0, 6.0]])
    assert parts.seed == pytest.approx(math.sqrt(2))
    assert parts.data == pytest.approx(math.sqrt((16 - 2) / 2))


def test_data_sets_that_differ_less_than_their_seeds_have_no_variance_of_their_own() -> None:
    assert variance_parts([[0.0, 10.0], [1.0, 9.0]]).data == 0.0


def test_parts_that_cannot_be_told_apart_are_nan() -> None:
    assert all(math.isnan(part) for part in variance_parts([[1.0], [2.0], [3.0]]))
    alone = variance_parts([[1.0, 2.0]])
    assert math.isnan(alone.data)
    assert alone.seed == pytest.approx(math.sqrt(0.5))


def test_variance_parts_are_found_in_groups_of_unequal_size() -> None:
    rng = np.random.default_rng(0)
    groups = [list(rng.normal(0, 2.0) + rng.normal(0, 0.5, size=n)) for n in rng.integers(2, 6, size=4000)]
    parts = variance_parts(groups)
    assert parts.data == pytest.approx(2.0, rel=0.05)
    assert parts.seed == pytest.approx(0.5, rel=0.05)


def draws(rng: np.random.Generator, n_data: int, n_seeds: int) -> list[list[float]]:
    return [list(rng.normal(0, 1) + rng.normal(0, 0.5, size=n_seeds)) for _ in range(n_data)]


def test_both_intervals_cover_what_they_say_and_seeds_as_data_do_not() -> None:
    rng = np.random.default_rng(1)
    hits = np.zeros(3)
    for i in range(400):
        groups = draws(rng, 5, 3)
        t, naive = nested_mean(groups), mean_interval([v for group in groups for v in group])
        low, high = nested_bootstrap(groups, seed=i, draws=400)
        hits += [t.low < 0 < t.high, low < 0 < high, naive.low < 0 < naive.high]
    t, bootstrap, naive = hits / 400
    assert 0.92 < t < 0.98
    assert 0.88 < bootstrap < 0.97  # at most 15 / 16: it stays within the range of the means
    assert naive < 0.8


def test_the_bootstrap_stays_within_the_range_of_its_values() -> None:
    low, high = nested_bootstrap([[0.99, 1.0], [1.0, 1.0], [0.97, 0.98]], seed=0)
    assert 0.97 <= low < high <= 1.0
    assert math.isnan(nested_bootstrap([[1.0]], seed=0)[0])


def test_the_bootstrap_widens_with_the_spread_of_data_sets_and_not_with_the_order_of_seeds() -> None:
    narrow = nested_bootstrap([[0.4, 0.5], [0.5, 0.4], [0.45, 0.45]], seed=0)
    wide = nested_bootstrap([[0.1, 0.2], [0.9, 0.8], [0.5, 0.5]], seed=0)
    assert wide[1] - wide[0] > 3 * (narrow[1] - narrow[0])


def test_paired_agrees_with_scipy_on_the_means_of_data_sets() -> None:
    rng = np.random.default_rng(2)
    a, b = draws(rng, 8, 3), draws(rng, 8, 2)
    of_a, of_b = ([float(np.mean(group)) for group in side] for side in (a, b))
    found = paired(a, b)
    assert found.p == pytest.approx(stats.ttest_rel(of_a, of_b).pvalue)
    assert found.p_ranks == pytest.approx(stats.wilcoxon(of_a, of_b).pvalue)
    differences = np.subtract(of_a, of_b)
    assert found.effect == pytest.approx(differences.mean() / differences.std(ddof=1))
    assert (found.wins, found.losses) == ((differences > 0).sum(), (differences < 0).sum())


def test_a_data_set_that_one_side_lacks_is_no_pair() -> None:
    found = paired([[1.0], [5.0], [3.0]], [[0.0], [math.nan], [1.0]])
    assert found.estimate.n == 2
    assert found.estimate.mean == 1.5
    assert found.wins == 2


def test_methods_that_do_not_differ_have_no_p_and_a_constant_difference_an_infinite_effect() -> None:
    same = paired([[1.0], [2.0]], [[1.0], [2.0]])
    assert (same.estimate.mean, same.wins, same.losses) == (0.0, 0, 0)
    assert math.isnan(same.p)
    always = paired([[2.0], [3.0]], [[1.0], [2.0]])
    assert (always.effect, always.p) == (math.inf, 0.0)
    assert math.isnan(paired([[1.0]], [[0.0]]).p)


def test_few_data_sets_have_no_signed_rank_test() -> None:
    five = paired([[1.0], [2.0], [3.0], [4.0], [5.0]], [[0.5], [1.0], [1.5], [2.0], [2.5]])
    assert math.isnan(five.p_ranks)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, math.nan])[:3] == pytest.approx([0.03, 0.06, 0.06])
    assert math.isnan(holm([0.01, math.nan])[1])
    assert holm([0.6, 0.7]) == [1.0, 1.0]


def test_holm_never_lets_a_larger_p_come_out_smaller() -> None:
    p = list(np.random.default_rng(3).random(20) ** 3)
    order = np.argsort(p)
    adjusted = np.array(holm(p))[order]
    assert (np.diff(adjusted) >= 0).all()
    assert (adjusted >= np.array(p)[order]).all()
