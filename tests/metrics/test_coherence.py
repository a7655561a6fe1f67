"""The mean |cosine| between decoder rows, by hand, and which latents count in it."""

from __future__ import annotations

import math

import pytest
import torch

from sae.dictionaries.relu import Relu
from sae.metric import Case, Evidence
from sae.metrics import coherence
from sae.metrics.coherence import Config, decoder_cosine
from sae.source import Batch

HALF = 0.5**0.5


def test_by_hand():
    assert decoder_cosine(torch.eye(3, 5)) == 0
    assert decoder_cosine(torch.eye(1, 4).repeat(3, 1)) == pytest.approx(1)
    # Of three pairs one is a copy, the other two are orthogonal.
    assert decoder_cosine(torch.tensor([[1.0, 0.0], [5.0, 0.0], [0.0, 2.0]])) == pytest.approx(1 / 3)
    assert decoder_cosine(torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 3.0]])) == pytest.approx(2 * HALF / 3)


def test_opposite_directions_overlap_as_much_as_equal_ones():
    rows = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    signs = torch.tensor([1.0, -1, 1, -1, -1, 1])[:, None]
    assert decoder_cosine(signs * rows) == pytest.approx(decoder_cosine(rows), rel=1e-6)
    assert decoder_cosine(torch.tensor([[1.0, 0.0], [-2.0, 0.0]])) == pytest.approx(1)


def test_neither_order_nor_length_matter_and_rows_of_zeros_do_not_count():
    rows = torch.randn(7, 5, generator=torch.Generator().manual_seed(1))
    expected = decoder_cosine(rows)
    assert decoder_cosine(rows.flip(0)) == pytest.approx(expected, rel=1e-6)
    assert decoder_cosine(rows * torch.arange(1, 8)[:, None]) == pytest.approx(expected, rel=1e-6)
    assert decoder_cosine(torch.cat([torch.zeros(2, 5), rows])) == pytest.approx(expected, rel=1e-6)


def test_fewer_than_two_have_no_pair():
    assert math.isnan(decoder_cosine(torch.eye(2), torch.tensor([True, False])))
    assert math.isnan(decoder_cosine(torch.tensor([[0.0, 0.0], [1.0, 0.0]])))


def test_in_pieces_as_at_once(monkeypatch: pytest.MonkeyPatch):
    rows = torch.randn(23, 6, generator=torch.Generator().manual_seed(2))
    expected = torch.nn.functional.cosine_similarity(rows[:, None], rows[None], dim=-1).abs()
    above = expected[torch.ones(23, 23).triu(1).bool()]
    for size in (5, 23, 1024):
        monkeypatch.setattr(coherence, "_ROWS_AT_ONCE", size)
        assert decoder_cosine(rows) == pytest.approx(float(above.mean()), rel=1e-5)


def test_random_directions_have_the_stated_mean():
    rows = torch.randn(400, 50, generator=torch.Generator().manual_seed(3))
    assert decoder_cosine(rows) == pytest.approx((2 / (math.pi * 50)) ** 0.5, rel=0.02)


def test_latents_that_never_fire_do_not_count():
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [HALF, HALF]])
    batch = Batch(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
    silent = Relu(rows.T.contiguous(), rows, torch.tensor([0.0, 0.0, -9.0]), torch.zeros(2))
    alive = Relu(rows.T.contiguous(), rows, torch.zeros(3), torch.zeros(2))
    scores = [Config().score(Case(d, Evidence(batch, batch))).scalars["decoder_cosine"] for d in (silent, alive)]
    assert scores == [0, pytest.approx(2 * HALF / 3)]


def test_orthonormal_directions_do_not_overlap_and_a_rotation_changes_nothing():
    rotation = torch.linalg.qr(torch.randn(9, 9, generator=torch.Generator().manual_seed(4))).Q
    assert decoder_cosine(rotation) == pytest.approx(0, abs=1e-6)
    rows = torch.randn(6, 4, generator=torch.Generator().manual_seed(5))
    turned = rows @ torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(6))).Q
    assert decoder_cosine(turned) == pytest.approx(decoder_cosine(rows), rel=1e-5)
