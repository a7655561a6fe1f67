"""The minimum of a curve: found where there is one, refused where there is none."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from sae.analysis.suggestion import SHALLOW, suggest
from sae.registry import UserError

TARGETS = [3, 4, 5, 7, 9, 12, 16, 22]


def curve(f: Callable[[float], float], noise: float, seed: int = 0, n: int = 3) -> list[list[float]]:
    rng = np.random.default_rng(seed)
    return [[f(k) + noise * rng.standard_normal() for _ in range(n)] for k in TARGETS]


def bowl(at: float, bend: float = 0.1, least: float = 0.02) -> Callable[[float], float]:
    return lambda k: least + bend * math.log(k / at) ** 2


@pytest.mark.parametrize("at", [5, 6, 7.9, 10, 14])
def test_a_parabola_is_found_between_the_targets(at: float):
    found = suggest(TARGETS, curve(bowl(at), noise=1e-6))
    assert found.verdict == "clear" and found.l0 == pytest.approx(at, rel=1e-2)
    assert found.low < at < found.high and found.low <= found.l0 <= found.high


@pytest.mark.parametrize("seed", range(5))
def test_a_kink_is_found_within_fifteen_percent_through_noise(seed: int):
    """A steep fall and a slow rise, as in measured curves."""

    def kink(k: float) -> float:
        return 0.01 + (0.1 * math.log(9 / k) if k < 9 else 0.03 * math.log(k / 9))

    found = suggest(TARGETS, curve(kink, noise=0.002, seed=seed, n=4))
    assert found.verdict == "clear" and found.l0 == pytest.approx(9, rel=0.15)


def test_noise_widens_the_interval():
    sure, unsure = (suggest(TARGETS, curve(bowl(8), noise)) for noise in (1e-6, 0.04))
    assert (sure.low, sure.high) == pytest.approx((math.sqrt(7 * 9), math.sqrt(9 * 12)))
    assert unsure.high / unsure.low > 1.2 * sure.high / sure.low


def test_order_does_not_matter_and_targets_without_values_are_left_out():
    values = curve(bowl(8), noise=0.001)
    expected = suggest(TARGETS, values)
    backwards = [*reversed(TARGETS), 8]
    assert suggest(backwards, [*reversed(values), [math.nan, math.nan]]) == expected


def test_a_curve_without_a_minimum_is_flat():
    found = suggest(TARGETS, [[0.1 + d for d in (-0.01, 0.0, 0.01)]] * len(TARGETS))
    assert found.verdict == "flat" and found.l0 is None and (found.low, found.high) == (3, 22)


@pytest.mark.parametrize(("share", "verdict"), [(0.6, "flat"), (1.6, "clear")])
def test_a_shallow_minimum_is_flat_however_sure(share: float, verdict: str):
    rise = min(math.log(3 / 8) ** 2, math.log(22 / 8) ** 2)
    found = suggest(TARGETS, curve(bowl(8, bend=share * SHALLOW * 0.1 / rise, least=0.1), noise=1e-7))
    assert found.verdict == verdict and (found.l0 is None) == (verdict == "flat")
    assert found.depth == pytest.approx(share * SHALLOW, rel=0.1)


@pytest.mark.parametrize(("sign", "verdict"), [(1, "low end"), (-1, "high end")])
def test_a_minimum_at_an_end_is_no_minimum(sign: int, verdict: str):
    found = suggest(TARGETS, curve(lambda k: 0.2 + 0.05 * sign * math.log(k), noise=0.001))
    assert found.verdict == verdict and found.l0 is None


def test_one_that_is_not_told_from_an_end_is_at_the_end():
    values = curve(bowl(4), noise=1e-6)
    values[0] = [values[1][0] + d for d in (-0.1, 0.05, 0.15)]
    assert suggest(TARGETS, values).verdict == "low end"


def test_a_minimum_of_zero_is_deep():
    found = suggest([1, 2, 3, 4], [[0.3, 0.31], [0.0, 0.0], [0.1, 0.11], [0.2, 0.21]])
    assert found.verdict == "clear" and found.depth == math.inf and 1.4 < (found.l0 or 0) < 2.5


@pytest.mark.parametrize(
    ("l0s", "values", "word"),
    [
        ([1, 2], [[0.1, 0.2]] * 2, "three"),
        ([1, 2, 3], [[0.1, 0.2], [0.1, 0.2], [math.nan]], "three"),
        ([1, 2, 3], [[0.1, 0.2], [0.1], [0.1, 0.2]], "seed"),
        ([1, 2, 2], [[0.1, 0.2]] * 3, "distinct"),
        ([0, 1, 2], [[0.1, 0.2]] * 3, "above 0"),
    ],
)
def test_too_few_values_are_refused(l0s: list[float], values: list[list[float]], word: str):
    with pytest.raises(UserError, match=word):
        suggest(l0s, values)
