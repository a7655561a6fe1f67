"""Seeds are independent of one another, and a permutation is one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae.seeds import Permutation, derive, generator


def test_paths_do_not_collide_where_sums_would():
    assert derive("a", 1, 2) != derive("a", 2, 1)
    assert derive("a", 12) != derive("a", 1, 2)
    assert derive("ab") != derive("a", "b")


def test_generator_is_a_function_of_its_path():
    first, again, other = (torch.rand(5, generator=generator("x", k)) for k in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@settings(deadline=None, max_examples=60)
@given(n=st.integers(1, 3000), seed=st.integers(0, 2**40))
def test_permutation_hits_every_row_once(n: int, seed: int):
    image = Permutation(n, seed)(np.arange(n))
    assert sorted(image.tolist()) == list(range(n))


def test_permutation_looks_random():
    n = 20_000
    image = Permutation(n, 3)(np.arange(n))
    neighbours = np.corrcoef(image[:-1], image[1:])[0, 1]
    assert abs(neighbours) < 4 / n**0.5
    assert abs(np.corrcoef(np.arange(n), image)[0, 1]) < 4 / n**0.5
    assert abs((image == np.arange(n)).sum() - 1) < 6  # a random permutation has one fixed point on average
    assert not np.array_equal(image, Permutation(n, 4)(np.arange(n)))


@pytest.mark.parametrize("n", [10**9, 2**33])
def test_a_large_permutation_costs_no_memory(n: int):
    index = np.arange(n - 1000, n)
    image = Permutation(n, 0)(index)
    assert len(set(image.tolist())) == 1000
    assert image.min() >= 0 and image.max() < n
