"""The parts of the studies of codes: losses of a copied half, rows, and the best unit for a token."""

from __future__ import annotations

import pytest
import torch

from benchmarks.small_models.codes import _best_unit, _Repeated
from benchmarks.small_models.names import _last_name, _name_said_once
from sae.numerics.seeds import generator
from sae.toys.attention.names import Names
from sae.toys.attention.network import AttentionModelConfig, Network, bridged
from sae.toys.attention.repeats import Repeats

TASK = Repeats(vocabulary=7, shortest=4, longest=8, length=13)


def test_losses_are_those_of_the_second_half_and_rows_hold_what_they_say():
    network = Network(AttentionModelConfig(n_layers=2, n_heads=2, d_head=4, d_model=8), TASK, generator("test", 0))
    tokens = torch.randint(7, (2, 9, 6), generator=generator("test", 1))
    case = _Repeated.of("untrained", bridged(network, "untrained", "cpu"), tokens, TASK.bos)
    this, other = tokens
    for rows, first in ((case.repeated, this), (case.other, other), (case.random(), case.random()[:, 7:])):
        assert bool((rows[:, 0] == TASK.bos).all()) and torch.equal(rows[:, 1:7], first)
    assert torch.equal(case.other[:, 7:], this) and torch.equal(case.shuffled[:, 7:], this)
    assert torch.equal(case.shuffled[:, 1:7].sort(1).values, this.sort(1).values)
    assert not torch.equal(case.shuffled, case.repeated)
    found = case.losses(case.repeated)
    with torch.no_grad():
        logits = network(case.repeated)
    for row in range(9):
        for i in range(5):
            # Token i + 1 of the second half is at position 8 + i, and predicted at the position before.
            expected = torch.nn.functional.cross_entropy(logits[row, 7 + i], case.repeated[row, 8 + i])
            assert float(found[row, i]) == pytest.approx(float(expected), abs=1e-4)


def test_the_best_unit_is_chosen_on_fitted_rows_and_measured_on_others():
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(3, (2, 600), generator=draw)
    positive = tokens[..., None] == torch.arange(3)
    x = torch.randn(2, 600, 5, generator=draw)
    x[:, :, 1] = (tokens == 0).float()
    x[:, :, 3] = -(tokens == 1).float() * (torch.rand(2, 600, generator=draw) < 0.8)
    x[0, :, 4] = (tokens[0] == 2).float()  # in the fitted rows only
    auc, f1 = _best_unit(x[0], x[1], positive[0], positive[1])
    # AUC and F1 for a recall of 1, of .8, and for noise with a threshold of .5 to 1.
    assert auc == pytest.approx((1 + 0.9 + 0.5) / 3, abs=0.03)
    assert f1 == pytest.approx((1 + 1.6 / 1.8 + 0.33) / 3, abs=0.08)


def test_places_of_names():
    task = Names(n_names=5, n_fillers=3, length=9)
    rows = task.batch(0, "test", 0, 200)
    at = _last_name(task, rows)
    assert torch.equal(rows[torch.arange(200), at], task.labels(rows)["twice"][:, -1])
    once = rows[torch.arange(200), _name_said_once(task, rows)]
    assert torch.equal(once, task.labels(rows)["once"][:, -1])
    assert bool((rows.scatter(1, at[:, None], task.end) < 5).sum(1).eq(2).all()) and len(at.unique()) > 3
