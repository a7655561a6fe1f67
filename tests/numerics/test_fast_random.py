"""Uniform numbers are those of torch, bit for bit, and leave the generator where torch leaves it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae.numerics import fast_random as draws
from sae.numerics.fast_random import keep_, uniform

SHAPES = st.lists(st.tuples(st.integers(0, 70), st.integers(1, 70)), min_size=1, max_size=4)


def test_compiled_draws_are_in_use_where_numba_is():
    """Fails if a new version of torch draws differently, in which case sources fall back to torch."""
    pytest.importorskip("numba")
    assert draws._compiled()


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**63 - 1), shapes=SHAPES, normal=st.integers(0, 40))
def test_uniform_is_torch_rand(seed: int, shapes: list[tuple[int, int]], normal: int):
    ours, theirs = (torch.Generator().manual_seed(seed) for _ in range(2))
    for shape in shapes:
        assert torch.equal(uniform(shape, ours), torch.rand(shape, generator=theirs))
        # Other draws in between see the generator as torch would have left it.
        assert torch.equal(torch.randn(normal, generator=ours), torch.randn(normal, generator=theirs))
        assert torch.equal(ours.get_state(), theirs.get_state())


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**63 - 1), shapes=SHAPES, shared=st.booleans())
def test_what_fires_is_what_torch_would_let_fire(seed: int, shapes: list[tuple[int, int]], shared: bool):
    ours, theirs = (torch.Generator().manual_seed(seed) for _ in range(2))
    for rows, n in shapes:
        values, p = torch.rand(rows, n), torch.rand(n) if shared else torch.rand(max(rows, 1), n)[:rows]
        expected = values * (torch.rand(values.shape, generator=theirs) < p)
        assert torch.equal(keep_(values, p, ours), expected)
        assert torch.equal(ours.get_state(), theirs.get_state())


def test_a_probability_for_all_rows_may_be_a_row(monkeypatch: pytest.MonkeyPatch):
    p = torch.tensor([[0.0, 1.0, 0.5]])
    found = [keep_(torch.ones(500, 3), p, torch.Generator().manual_seed(0))]
    monkeypatch.setattr(draws, "_compiled", lambda: False)
    found.append(keep_(torch.ones(500, 3), p, torch.Generator().manual_seed(0)))
    assert torch.equal(*found) and found[0].sum(0).tolist()[:2] == [0, 500]
