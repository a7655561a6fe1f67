"""Paired comparisons by hand, and against scipy."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from sae.probing.compare import paired_comparison


def test_five_pairs_by_hand():
    a, b = [0.9, 0.8, 0.7, 0.6, 0.5], [0.8, 0.7, 0.7, 0.4, 0.6]
    found = paired_comparison(a, b)  # differences .1, .1, 0, .2, -.1: mean .06, variance .013
    assert (found.n, found.wins, found.losses, found.ties) == (5, 3, 1, 1)
    assert found.difference == pytest.approx(0.06)
    assert found.d_z == pytest.approx(0.06 / math.sqrt(0.013))
    assert found.half == pytest.approx(2.7764451 * math.sqrt(0.013 / 5))
    assert found.t_p == pytest.approx(stats.ttest_rel(a, b).pvalue)


def test_eight_wins_in_a_row_have_the_exact_p_of_two_in_two_hundred_fifty_six():
    b = [0.1 * i for i in range(8)]
    a = [x + 0.01 * (i + 1) for i, x in enumerate(b)]
    assert paired_comparison(a, b).wilcoxon_p == pytest.approx(2 / 2**8)
    assert paired_comparison(b, a).wilcoxon_p == pytest.approx(2 / 2**8) and paired_comparison(b, a).losses == 8


def test_what_is_undefined_is_nan_and_never_significant():
    same = paired_comparison([0.5, 0.6], [0.5, 0.6])
    assert same.difference == 0 and math.isnan(same.t_p) and math.isnan(same.wilcoxon_p) and math.isnan(same.d_z)
    one = paired_comparison([0.7], [0.5])
    assert one.difference == pytest.approx(0.2) and math.isnan(one.half) and math.isnan(one.t_p)
    none = paired_comparison([math.nan], [0.5])
    assert none.n == 0 and math.isnan(none.difference)


def test_pairs_with_an_undefined_side_are_left_out():
    assert paired_comparison([0.9, math.nan, 0.7], [0.8, 0.1, 0.6]) == paired_comparison([0.9, 0.7], [0.8, 0.6])
