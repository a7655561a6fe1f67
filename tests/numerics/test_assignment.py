"""The assignment over kept pairs: the optimum of the dense one, at any size of the blocks, and what it cannot prove."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae.numerics import assignment
from sae.numerics.assignment import Absolute, assign, one_to_one
from sae.numerics.matching import Cosines, Matching, cosines, unit


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(assignment, "DENSE_PAIRS", 40)
    monkeypatch.setattr(assignment, "CANDIDATES", 2)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 40), m=st.integers(1, 40), d=st.integers(1, 6), seed=st.integers(0, 10_000))
def test_the_sparse_assignment_is_as_good_as_the_dense_one(n: int, m: int, d: int, seed: int):
    g = torch.Generator().manual_seed(seed)
    a, b = torch.randn(n, d, generator=g), torch.randn(m, d, generator=g)
    b[::5] = 0  # ties
    for similarity in (Cosines(a, b), Absolute(Cosines(a, b))):
        dense = similarity.block(slice(0, m))
        best = one_to_one(dense)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(assignment, "DENSE_PAIRS", 40)
            patch.setattr(assignment, "CANDIDATES", 2)
            patch.setattr(assignment, "MOST_ROUNDS", 60)
            found = assign(similarity)
        has = found.column >= 0
        assert int(has.sum()) == min(n, m) == len(found.column[has].unique())
        expected = dense[best >= 0, best[best >= 0]].sum()
        assert float(found.value.sum()) == pytest.approx(float(expected), abs=1e-4) and found.unproven == 0
        torch.testing.assert_close(found.value[has], dense[has, found.column[has]])
        assert bool((found.value[~has] == 0).all())


@pytest.mark.usefixtures("small_blocks")
def test_rivals_for_one_latent_are_resolved_by_more_pairs():
    """Every feature is nearest to the same two latents, so the kept pairs leave most of them without a partner."""
    g = torch.Generator().manual_seed(0)
    centre = torch.randn(1, 8, generator=g)
    a, b = centre + 0.1 * torch.randn(20, 8, generator=g), torch.randn(30, 8, generator=g)
    b[:2] = centre
    dense = cosines(a, b)
    best = one_to_one(dense)
    assert float(assign(Cosines(a, b)).value.sum()) == pytest.approx(float(dense.gather(1, best[:, None]).sum()))


@pytest.mark.usefixtures("small_blocks")
def test_an_assignment_that_is_cut_short_says_for_how_many_it_could_differ(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(assignment, "MOST_ROUNDS", 1)
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(1, 8, generator=g) + 0.1 * torch.randn(20, 8, generator=g), torch.randn(30, 8, generator=g)
    found = assign(Cosines(a, b))
    dense = cosines(a, b)
    best = dense.gather(1, one_to_one(dense)[:, None]).sum()
    assert 0 < found.unproven <= 1 and float(found.value.sum()) < float(best) - 0.1


@pytest.mark.usefixtures("small_blocks")
def test_the_nearest_in_blocks_are_those_of_the_whole_matrix():
    g = torch.Generator().manual_seed(1)
    directions, W_dec = unit(torch.randn(9, 5, generator=g)), torch.randn(33, 5, generator=g)
    W_dec[7] = 0
    represented = torch.arange(9) != 4
    m = Matching.of(directions, represented, W_dec)
    s = cosines(directions[represented], W_dec)
    torch.testing.assert_close(m.nearest_latent.cosine, s.amax(1))
    torch.testing.assert_close(m.nearest_feature.cosine, s.amax(0))
    assert torch.equal(m.nearest_latent.partner, s.argmax(1)) and torch.equal(m.nearest_feature.partner, s.argmax(0))
    assert torch.equal(m.nearest_axis, s.abs().argmax(0)) and m.touched.nonzero()[:, 0].tolist() == [
        j for j in range(33) if j != 7
    ]
