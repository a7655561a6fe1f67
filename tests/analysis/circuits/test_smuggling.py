"""Smuggling: none without a norm, and a known share with one."""

from __future__ import annotations

import pytest
import torch

from sae.analysis.circuits.smuggling import smuggling, solu
from sae.numerics.seeds import generator
from sae.registry import UserError


def test_solu_is_x_times_its_softmax():
    found = solu(torch.tensor([[0.0, 0.0], [100.0, 0.0]]))
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.0], [100.0, 0.0]]))
    torch.testing.assert_close(solu(torch.tensor([1.0, 1.0])), torch.tensor([0.5, 0.5]))


def test_without_a_norm_nothing_is_smuggled():
    x = solu(torch.randn(2000, 32, generator=generator("x")) * 3)
    found = smuggling(x, x)
    assert found.rise == (0, 0, 0) and found.before == found.after
    assert found.before.value < 0.1 < found.chance.low  # small ones are most of all, and write next to nothing


def test_a_norm_gives_the_small_a_share_between_their_own_and_that_of_chance():
    x = torch.randn(4000, 64, generator=generator("x")) * 3
    a = solu(x)
    found = smuggling(a, torch.nn.functional.layer_norm(a, (64,)))
    assert found.rise.low > 0
    assert found.before.high < found.after.low and found.after.high < found.chance.low


def test_the_share_is_that_of_the_definition():
    before = torch.tensor([[1.0, 0.0], [0.01, 0.0], [-1.0, 0.0], [-0.01, 0.0]])
    after = torch.tensor([[1.0, 2.0], [1.0, -2.0], [-1.0, 2.0], [-1.0, -2.0]])
    # Neuron 1 is always 0: |0| < small * 0 never holds, so it is not small and counts in the total only.
    found = smuggling(before, after)
    assert found.n_small == 0.25
    assert found.before.value == pytest.approx(0.0002 / 2.0002)
    assert found.after.value == pytest.approx(2 / 20)
    weighted = smuggling(before, after, write=torch.tensor([2.0, 0.0]))
    assert weighted.after.value == pytest.approx(0.5)


def test_what_does_not_vary_is_refused():
    with pytest.raises(UserError, match="do not vary"):
        smuggling(torch.ones(10, 3), torch.ones(10, 3))
