"""Monosemantic units: planted ones are counted, chance is chance, and streaming changes nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sae.analysis.units.monosemantic import ANY, TopExamples, monosemantic_units
from sae.model.token_rows import NOTHING
from sae.numerics.seeds import generator

ROWS, CLASSES = 4000, 20


def planted(clear: int = 6, mixed: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Units that fire on one class each, units that fire on two equally; classes, and rows of eight tokens."""
    draw = generator("planted")
    classes = torch.randint(CLASSES, (ROWS,), generator=draw)
    loud = torch.rand(ROWS, clear + mixed, generator=draw)
    on = torch.stack([classes == u for u in range(clear)] + [(classes == u) | (classes == u + 9) for u in range(mixed)])
    return loud * on.T, classes, torch.arange(ROWS) // 8


def top_of(x: Tensor, groups: Tensor, k: int = 10, size: int = 10_000) -> TopExamples:
    top = TopExamples(k, x.shape[1])
    for rows in torch.arange(len(x)).split(size):
        top.add(x[rows], rows, groups[rows])
    return top


def test_units_of_one_class_are_counted_and_those_of_two_are_not():
    x, classes, groups = planted()
    found = monosemantic_units(top_of(x, groups), {"class": classes})["class"]
    assert found.n_units == 10 and found.n_rare == 0
    assert found.largest[:6].tolist() == [10] * 6 and found.share.value == 0.6
    assert found.share.low < 0.6 < found.share.high < 1
    assert found.chance.high == 0


def test_marks_of_which_a_row_may_have_several_count_alike():
    x, classes, groups = planted()
    marks = torch.stack([classes < 10, classes == 3, classes % 2 == 0], dim=1)
    found = monosemantic_units(top_of(x, groups), {"marks": marks})["marks"]
    assert found.largest[:6].tolist() == [10] * 6
    # Unit 6 fires on classes 0 and 9: both below ten.
    assert int(found.largest[6]) == 10
    # Of the units on one class, 1 and 5 have one label; 0, 2 and 4 have two, and 3 has a further one.
    lone = monosemantic_units(top_of(x[:, :6], groups), {"marks": marks})["marks"].alone
    assert lone is not None and lone.value == 2 / 6
    assert monosemantic_units(top_of(x, groups), {"class": classes})["class"].alone is None


def test_noise_agrees_as_often_as_its_control_says():
    draw = generator("noise")
    x = torch.rand(ROWS, 400, generator=draw)
    skewed = (torch.rand(ROWS, generator=draw) < 0.1).long()
    found = monosemantic_units(top_of(x, torch.arange(ROWS)), {"skewed": skewed}, shuffles=40)["skewed"]
    # Nine of ten are of the class that nine rows of ten have: P(Binomial(10, .9) >= 9) = .736.
    assert found.chance.value == pytest.approx(0.736, abs=0.03)
    assert found.share.low < found.chance.value < found.share.high


def test_no_two_examples_come_from_one_row_of_tokens():
    x, _, groups = planted()
    top = top_of(x, groups)
    assert all(len(set(groups[rows].tolist())) == 10 for rows in top.rows.T)
    values, expected = top.values[:, 0], x[:, 0].view(-1, 8).amax(1).topk(10).values
    assert torch.equal(values, expected) and torch.equal(x[top.rows[:, 0], 0], values)


@pytest.mark.parametrize("size", [7, 64, 1000])
def test_batches_of_any_size_find_the_same(size: int):
    x, _, groups = planted()
    order = torch.randperm(ROWS, generator=generator("order"))
    whole, top = top_of(x, groups), TopExamples(10, x.shape[1])
    for rows in order.split(size):
        top.add(x[rows], rows, groups[rows])
    assert torch.equal(top.values, whole.values) and torch.equal(top.rows, whole.rows)


def test_units_that_are_hardly_ever_active_are_told_apart():
    x, classes, groups = planted()
    x[:, 3] = 0
    x[:5, 3] = 1.0
    found = monosemantic_units(top_of(x, groups), {"class": classes})["class"]
    assert found.n_units == 9 and found.n_rare == 1
    none = monosemantic_units(top_of(torch.zeros(20, 2), torch.arange(20)), {"class": torch.zeros(20).long()})["class"]
    assert none.n_units == 0 and none.share.value != none.share.value


def test_what_is_not_known_agrees_with_nothing_and_any_of_them_is_their_largest():
    x, classes, groups = planted()
    unknown = torch.full_like(classes, NOTHING)
    found = monosemantic_units(top_of(x, groups), {"next": unknown, "token": classes})
    assert int(found["next"].largest.max()) == 0 and found["next"].share.value == 0
    assert torch.equal(found[ANY].largest, found["token"].largest)
