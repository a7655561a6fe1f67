"""All neurons for a feature: one is enough for a feature of one neuron, all are needed for one that is spread."""

from __future__ import annotations

import pytest
import torch

from sae.analysis.units.all_units import ablation_set, doublings, k_sparse
from sae.analysis.units.one_feature import Halves
from sae.numerics.seeds import generator

D = 16


def feature(strength: torch.Tensor) -> tuple[Halves, Halves]:
    draw = generator("feature")
    y = torch.rand(4000, generator=draw) < 0.3
    x = torch.randn(4000, D, generator=draw) + strength * y[:, None]
    return Halves(x[:2000], x[2000:]), Halves(y[:2000], y[2000:])


ONE = feature(4.0 * torch.eye(D)[3])
SPREAD = feature(torch.full((D,), 0.7))


def test_the_curve_saturates_at_the_neurons_that_a_feature_has():
    found = k_sparse(*ONE)
    assert found.saturates == 1 and found.effective == pytest.approx(1, abs=0.05)
    assert [p.k for p in found.points] == doublings(D) == [1, 2, 4, 8, 16]
    assert found.points[0].auc.low > 0.99 > found.points[0].random.value


def test_a_spread_feature_needs_them_all_and_any_do_as_well():
    found = k_sparse(*SPREAD)
    assert found.saturates == D and found.effective == pytest.approx(D, rel=0.1)
    aucs = [p.auc.value for p in found.points]
    assert aucs == sorted(aucs) and all(p.auc.value == pytest.approx(p.random.value, abs=0.05) for p in found.points)


def test_ablating_the_one_neuron_destroys_the_probe_and_the_feature():
    found = ablation_set(*ONE)
    assert int(found.units[0]) == 3 and found.n_needed == 1
    intact, first, *_ = found.points
    assert intact.k == 0 and intact.auc == intact.refit and intact.auc.low > 0.99
    assert first.auc.value == pytest.approx(0.5, abs=0.06) and first.refit.value == pytest.approx(0.5, abs=0.06)
    assert found.points[-1].auc.value == 0.5


def test_ablating_part_of_a_spread_feature_leaves_it_to_be_read_anew():
    found = ablation_set(*SPREAD)
    assert found.n_needed in (8, 16) and [p.k for p in found.points] == [0, 1, 2, 4, 8, 16]
    half = next(p for p in found.points if p.k == 8)
    assert half.refit.value > 0.85 and half.auc.value == pytest.approx(half.random.value, abs=0.1)
    assert found.points[-1].refit.value == 0.5


def test_doublings_end_at_all():
    assert doublings(1) == [1] and doublings(6) == [1, 2, 4, 6]
