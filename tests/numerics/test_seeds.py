"""Derived seeds are independent, and permutations are bijective."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae.numerics.seeds import Permutation, derive, epoch_rows, generator


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


def digest(rows: np.ndarray) -> str:
    assert rows.dtype == np.int64
    return hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest()[:16]


@pytest.mark.parametrize("has_numba", [False, True])
def test_permutations_and_epochs_are_what_they_were(monkeypatch: pytest.MonkeyPatch, has_numba: bool):
    """The order of all training samples depends on these; a change would change all results."""
    if has_numba:
        pytest.importorskip("numba")
    monkeypatch.setattr("sae.numerics.seeds.HAS_NUMBA", has_numba)
    known = {1: "af5570f5a1810b7a", 2: "4cbbd8ca5215b8d1", 7: "87d99a38313b57c3", 1000: "86c875a96e792349",
             4_194_304: "d7d594ad5b8b535d", 10**9: "61b775db048e5803"}  # fmt: skip
    assert {n: digest(Permutation(n, 3)(np.arange(min(n, 5000)))) for n in known} == known
    epochs = {(0, 5, 7, 0): "107b49f36cf26a1f", (3, 50, 20, 1): "cd751846b1ebd036",
              (100, 4096, 4_194_304, 2): "f42fe79b73ad2b89", (1, 1, 1, 0): "af5570f5a1810b7a"}  # fmt: skip
    assert {given: digest(epoch_rows(*given)) for given in epochs} == epochs


@settings(deadline=None, max_examples=60)
@given(n=st.integers(1, 2**40), seed=st.integers(0, 2**40), first=st.integers(0, 2**40), step=st.integers(1, 3))
def test_numpy_and_compiled_loops_permute_alike(n: int, seed: int, first: int, step: int):
    pytest.importorskip("numba")
    permutation, index = Permutation(n, seed), (first + np.arange(0, 40, step).reshape(-1, 1)) % n
    image = permutation(index)
    assert image.shape == index.shape and np.array_equal(image, permutation._by_numpy(index))


@settings(deadline=None, max_examples=60)
@given(n=st.integers(1, 50), size=st.integers(1, 120), seed=st.integers(0, 9))
def test_epochs_are_permutations_one_after_another(n: int, size: int, seed: int):
    rows = np.concatenate([epoch_rows(step, size, n, seed) for step in range(3)])
    for begin in range(0, len(rows) - n + 1, n):
        assert sorted(rows[begin : begin + n].tolist()) == list(range(n))
