"""Hyper-parameters are chosen on training rows by the documented rule, and by a fixed order without validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np
import pytest

from sae.probing.probes import Logistic, Probe, ProbeScores, ProbeSetting, X, Y
from sae.probing.validation import choose_setting, splits, validation_rows


def half(n: int) -> np.ndarray:
    return np.arange(n) % 2 == 0


def alone(n: int) -> np.ndarray:
    return np.arange(n)


@pytest.mark.parametrize("n", range(2, 13))
def test_at_most_twelve_rows_leave_two_out(n: int):
    found = validation_rows(half(n))
    assert len(found) == comb(n, 2) and {tuple(pair) for pair in found} == {
        (i, j) for i in range(n) for j in range(i + 1, n)
    }
    # A pair of one class has no AUC, and the remaining rows must have both classes.
    mixed = (n // 2) * ((n + 1) // 2) if n > 3 else 0
    assert len(splits(half(n), alone(n))) == mixed


@pytest.mark.parametrize("n", [13, 14, 25, 64, 100, 126, 127])
def test_fewer_than_128_rows_have_six_stratified_folds(n: int):
    found = validation_rows(half(n))
    assert len(found) == 6
    assert sorted(np.concatenate(found).tolist()) == list(range(n))
    for fold in found:
        assert abs(len(fold) - n / 6) <= 1 and abs(half(n)[fold].sum() - n / 12) <= 1


@pytest.mark.parametrize(
    ("n", "last"), [(128, 25), (129, 25), (130, 26), (200, 40), (499, 99), (500, 100), (501, 100), (1024, 100)]
)
def test_from_128_rows_on_the_last_fifth_but_at_most_100_validates(n: int, last: int):
    (found,) = validation_rows(half(n))
    assert found.tolist() == list(range(n - last, n))
    (split,) = splits(half(n), alone(n))
    assert split.fit.tolist() == list(range(n - last))


@pytest.mark.parametrize("n", range(2, 201))
def test_no_row_is_both_fitted_on_and_judged_by(n: int):
    for fit, judge in splits(half(n), alone(n)):
        assert sorted([*fit, *judge]) == list(range(n))


def test_a_document_never_has_rows_in_both_parts():
    groups = np.arange(60) // 5
    for fit, judge in splits(half(60), groups):
        assert len(judge) == 10 and not set(groups[fit]) & set(groups[judge])
        assert set(fit) == {i for i in range(60) if groups[i] not in groups[judge]}


def test_splits_without_both_classes_in_both_parts_are_left_out():
    rare = np.arange(40) == 3
    assert splits(rare, alone(40)) == []  # whichever part has the row, the other lacks it
    assert len(splits(np.arange(40) < 2, alone(40))) == 2


@dataclass(frozen=True)
class Fixed(Probe):
    """Gives the same scores in every setting but one, which is right or wrong."""

    right: bool = False

    def settings(self, n_rows: int, n_columns: int) -> list[ProbeSetting]:
        return [{"a": 1}, {"a": 2}, {"a": 3}]

    def scores(self, x: X, positive: Y, x_test: X, settings: Sequence[ProbeSetting], seed: int) -> ProbeScores:
        said = [x_test[:, 0] * (1 if self.right and s["a"] == 2 else 0) for s in settings]
        return np.stack(said, axis=1)


@pytest.mark.parametrize("n", [2, 3])
def test_three_rows_cannot_validate_and_the_prior_choice_is_marked(n: int):
    x = half(n)[:, None].astype(np.float32)
    choice = choose_setting(Logistic(), x, half(n), alone(n), 0)
    assert np.isnan(choice.auc) and choice.why == "prior" and choice.setting == Logistic().settings(n, 1)[0]


def test_ties_go_to_the_earliest_setting_and_are_marked():
    x = half(30)[:, None].astype(np.float32)
    tied = choose_setting(Fixed(), x, half(30), alone(30), 0)
    assert tied == ({"a": 1}, 0.5, "tie")
    assert choose_setting(Fixed(right=True), x, half(30), alone(30), 0) == ({"a": 2}, 1.0, "validation")


def test_settings_begin_with_the_prior_and_spread_as_published():
    found = [s["C"] for s in Logistic().settings(10, 3)]
    np.testing.assert_allclose(sorted(found), np.logspace(-5, 5, 10))
    assert found[0] == pytest.approx(10 ** (5 / 9)) and sorted(found[-2:]) == pytest.approx([1e-5, 1e5])


def test_leaving_pairs_out_counts_the_pairs_in_the_right_order():
    """The AUC of leave-pair-out by hand: the share of pairs whose positive row scores higher."""
    x = np.array([[0.9], [0.2], [0.6], [0.3], [0.5], [0.1]], dtype=np.float32)
    y = np.array([True, True, True, False, False, False])
    # .9 beats all, .6 beats all, .2 beats .1 alone: 7 of 9
    assert choose_setting(Fixed(right=True), x, y, alone(6), 0).auc == pytest.approx(7 / 9)
