"""Draws of training rows: exact counts, nested levels, and none for a task with too few rows."""

from __future__ import annotations

import numpy as np
import pytest

from sae.probing.examples import ProbeTask, PropertyRows
from sae.probing.regimes import Regimes, at_share, draws, flipped, n_rows_at_every_share, permuted


def rows(n: int = 400, n_positive: int = 100) -> PropertyRows:
    return PropertyRows(np.arange(n) + 1000, np.arange(n) < n_positive, np.arange(n))


def task(**sizes: int) -> ProbeTask:
    return ProbeTask("t", rows(**sizes), rows())


@pytest.mark.parametrize("share", [0.05, 0.25, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("n", [2, 3, 20, 100])
def test_a_draw_has_the_share_of_positives_that_was_asked_for(n: int, share: float):
    place = at_share(rows(), n, share, "seed", 0)
    assert place is not None and len(set(place.tolist())) == n
    assert rows().positive[place].sum() == min(max(round(n * share), 1), n - 1)


def test_a_task_with_too_few_rows_of_a_class_gives_none():
    assert at_share(rows(400, 9), 20, 0.5, 0) is None
    assert at_share(rows(400, 395), 20, 0.5, 0) is None
    assert at_share(rows(400, 10), 20, 0.5, 0) is not None


def test_the_rows_of_a_smaller_level_are_among_those_of_a_larger_one():
    small, large = (set(at_share(rows(), n, 0.5, "a").tolist()) for n in (10, 80))  # pyright: ignore
    assert small < large


def test_positive_rows_are_not_all_in_front():
    place = at_share(rows(), 200, 0.5, 0)
    assert place is not None and 60 < rows().positive[place][:150].sum() < 90


@pytest.mark.parametrize("share", [0.0, 0.05, 0.1, 0.33, 0.5])
def test_exactly_the_share_of_the_labels_is_flipped(share: float):
    y = rows().positive[:101]
    out = flipped(y, share, "a", 0)
    assert (out != y).sum() == round(101 * share)


def test_flips_of_a_smaller_share_are_among_those_of_a_larger_one():
    y = rows().positive
    a, b = (np.flatnonzero(flipped(y, share, 1) != y) for share in (0.1, 0.4))
    assert set(a) < set(b)


def test_permuted_labels_keep_their_counts():
    y = rows().positive
    assert permuted(y, 0).sum() == y.sum() and (permuted(y, 0) != y).any()


def test_every_share_of_the_imbalance_is_drawn_with_one_number_of_rows():
    found = [d for d in draws(Regimes(regimes=("imbalance",)), task(), 0)]
    assert len(found) == 19 and len({len(d.place) for d in found}) == 1
    n = len(found[0].place)
    assert n == n_rows_at_every_share(rows(), (0.05, 0.95), 1024) == 105  # 100 positive rows are .95 of 105
    assert [int(d.positive.sum()) for d in found] == [min(max(round(n * d.level), 1), n - 1) for d in found]


def test_levels_are_those_of_the_publication():
    settings = Regimes()
    assert len(settings.imbalance) == 19 and (settings.imbalance[0], settings.imbalance[-1]) == (0.05, 0.95)
    assert len(settings.noise) == 11 and (settings.noise[0], settings.noise[-1]) == (0, 0.5)
    assert (settings.scarcity[0], settings.scarcity[-1]) == (2, 1024) and len(settings.scarcity) >= 18


def test_other_seeds_and_tasks_draw_other_rows_and_the_same_ones_the_same():
    def standard(task: ProbeTask, seed: int) -> list[int]:
        return next(draws(Regimes(n_train=50), task, seed)).place.tolist()

    other = ProbeTask("u", rows(), rows())
    assert standard(task(), 0) == standard(task(), 0)
    assert standard(task(), 0) != standard(task(), 1) and standard(task(), 0) != standard(other, 0)


def test_noise_is_laid_on_the_standard_rows():
    settings = Regimes(regimes=("standard", "noise"), n_train=60, noise=(0.0, 0.5))
    standard, clean, noisy = draws(settings, task(), 3)
    assert standard.place.tolist() == clean.place.tolist() == noisy.place.tolist()
    assert (standard.positive == clean.positive).all() and (standard.positive != noisy.positive).sum() == 30
