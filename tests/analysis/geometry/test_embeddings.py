"""Crowding of a table: closed forms, and controls that have its directions of large variance."""

from __future__ import annotations

import math

import pytest
import torch

from sae.analysis.geometry.embeddings import crowding
from sae.analysis.geometry.geometry import expected_nearest
from sae.numerics.seeds import generator
from sae.registry import UserError


def test_an_orthonormal_basis_has_no_cosines_and_nearly_full_rank():
    found = crowding(torch.eye(20)).rows
    assert found.mean_cosine.value == pytest.approx(0, abs=1e-6) and found.largest.value == pytest.approx(0, abs=1e-6)
    assert found.effective_rank.value == pytest.approx(19) == found.dimensions.value  # less the mean


def test_random_rows_are_what_both_controls_say():
    n, d = 800, 64
    found = crowding(torch.randn(n, d, generator=generator("rows")))
    assert found.rows.mean_cosine.value == pytest.approx(math.sqrt(2 / (math.pi * d)), rel=0.02)
    assert found.rows.mean_cosine.low < found.rows.mean_cosine.value < found.rows.mean_cosine.high
    assert found.rows.nearest.value == pytest.approx(expected_nearest(n, d), rel=0.15)
    for control in (found.random, found.matched):
        for own, other in zip(vars(found.rows).values(), vars(control).values(), strict=True):
            assert own.value == pytest.approx(other.value, rel=0.1)


def test_a_common_part_is_in_the_matched_control_and_doubles_are_not():
    rows = torch.randn(400, 32, generator=generator("rows"))
    shifted = crowding(rows + 5)
    assert shifted.rows.mean_cosine.value > 0.9 > shifted.random.mean_cosine.value
    assert shifted.matched.mean_cosine.value == pytest.approx(shifted.rows.mean_cosine.value, abs=0.01)
    doubled = crowding(torch.cat([rows, rows + 0.01]))
    assert doubled.rows.nearest.low > 0.99 > doubled.matched.nearest.high


def test_lengths_count_for_ranks_alone_and_a_single_row_is_refused():
    rows = torch.randn(50, 8, generator=generator("rows"))
    lengths = torch.rand(50, 1, generator=generator("l")) + 0.1
    a, b = crowding(rows), crowding(torch.cat([rows * lengths, torch.zeros(4, 8)]))
    assert a.rows.mean_cosine.value == pytest.approx(b.rows.mean_cosine.value, abs=1e-5)
    with pytest.raises(UserError, match="fewer than two"):
        crowding(torch.zeros(5, 4))
