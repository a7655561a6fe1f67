"""Scores along a sweep of L0: closed forms, and no extrapolation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipelines.bench.sweep_curve import SweepCurve, shared_range


def test_between_two_points_the_score_is_linear_in_the_logarithm_of_l0() -> None:
    f = SweepCurve.through([(1.0, 0.0), (100.0, 1.0)])
    assert f.at(10.0) == pytest.approx(0.5)
    assert f.at(1.0) == pytest.approx(0.0)


def test_nothing_is_extrapolated() -> None:
    f = SweepCurve.through([(2.0, 0.3), (4.0, 0.4)])
    assert math.isnan(f.at(1.9))
    assert math.isnan(f.at(4.1))
    assert f.at(4.03) == pytest.approx(0.4)  # within a hundredth of the end: reached
    assert math.isnan(f.area(1.0, 4.0))
    assert math.isnan(f.area(4.0, 2.0))


def test_the_area_of_a_line_is_its_middle_and_of_a_constant_that_constant() -> None:
    f = SweepCurve.through([(1.0, 0.0), (100.0, 1.0)])
    assert f.area(1.0, 100.0) == pytest.approx(0.5)
    assert f.area(10.0, 100.0) == pytest.approx(0.75)
    assert SweepCurve.through([(1.0, 0.7), (3.0, 0.7), (9.0, 0.7)]).area(2.0, 5.0) == pytest.approx(0.7)


def test_the_area_agrees_with_a_fine_sum() -> None:
    rng = np.random.default_rng(0)
    f = SweepCurve.through(list(zip(rng.uniform(1, 50, 9), rng.random(9), strict=True)))
    low, high = f.reach[0] * 1.3, f.reach[1] / 1.2
    fine = np.exp(np.linspace(math.log(low), math.log(high), 20_001))
    assert f.area(low, high) == pytest.approx(np.mean([f.at(l0) for l0 in fine]), abs=1e-4)


def test_the_order_of_points_does_not_matter_and_points_at_one_l0_are_their_mean() -> None:
    points = [(3.0, 0.2), (1.0, 0.1), (3.0, 0.4)]
    assert SweepCurve.through(points).at(3.0) == pytest.approx(0.3)
    assert SweepCurve.through(points).at(2.0) == SweepCurve.through(points[::-1]).at(2.0)


def test_what_is_undefined_or_silent_is_no_point() -> None:
    f = SweepCurve.through([(0.0, 0.5), (2.0, math.nan), (math.nan, 0.1)])
    assert math.isnan(f.at(2.0))
    assert math.isnan(f.reach[0])


def test_the_shared_range_is_what_every_sweep_reaches() -> None:
    a, b = SweepCurve.through([(1.0, 0.1), (10.0, 0.2)]), SweepCurve.through([(3.0, 0.1), (30.0, 0.2)])
    alone = SweepCurve.through([(100.0, 0.5)])
    assert shared_range([a, b, alone]) == pytest.approx((3, 10))
    assert math.isnan(shared_range([SweepCurve.through([(1.0, 0.0), (2.0, 0.0)]), b])[0])
