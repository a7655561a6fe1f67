from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from sae.dictionaries.relu import Relu
from sae.metric import Case, Evidence
from sae.metrics.subspace import Config, spanned
from sae.source import Batch
from sae.toys.base import random_directions
from sae.toys.features.directions import polygon

PLANES = torch.eye(4).view(2, 2, 4)


def score(rows: torch.Tensor, acts: torch.Tensor | None = None) -> dict[str, float]:
    """Latents along `rows`; without `acts` each of them fires in one sample."""
    batch = Batch(rows if acts is None else acts)
    evidence = Evidence(batch, batch, subspaces=PLANES)
    return dict(Config().score(Case(Relu.tied(rows), evidence)).scalars)


def in_first(rows: torch.Tensor) -> torch.Tensor:
    return torch.cat([rows, torch.zeros(len(rows), 2)], dim=1)


def test_latents_around_a_circle_span_its_plane_and_are_counted():
    both = torch.cat([in_first(polygon(5)), in_first(polygon(9)).roll(2, 1)])
    assert score(both) == {"subspace_cosine": pytest.approx(1), "latents_per_subspace": 7}


def test_a_subspace_that_has_too_few_latents_is_not_found():
    s = score(in_first(polygon(5)))
    assert s["subspace_cosine"] == pytest.approx(0.5) and s["latents_per_subspace"] == 2.5
    one_way = torch.tensor([[1.0, 0, 0, 0], [1, 0, 0, 0], [-1, 0, 0, 0]])
    assert score(one_way)["subspace_cosine"] == 0, "three latents that span a single direction"


def test_latents_between_two_subspaces_belong_to_neither():
    between = torch.tensor([[1.0, 0, 1, 0], [0, 1, 0, 1], [1, 0, 0, 1]])
    assert score(between) == {"subspace_cosine": 0, "latents_per_subspace": 0}


def test_dead_latents_do_not_count():
    rows = in_first(polygon(4)).round()
    assert score(rows, acts=rows[:2])["latents_per_subspace"] == 1


def test_the_largest_angle_by_hand():
    tilted = torch.tensor([[1.0, 0, 0], [0, math.cos(0.3), math.sin(0.3)]])
    assert spanned(tilted, torch.eye(3)[:2]) == pytest.approx(math.cos(0.3))
    assert spanned(torch.cat([tilted, tilted + torch.tensor([[1.0, 0, 0]])]), torch.eye(3)[:2]) == pytest.approx(
        math.cos(0.3), abs=1e-6
    )


def test_directions_at_random_lie_in_a_plane_as_often_as_the_closed_form_says():
    """Of a unit vector in d dimensions, the square in k of them is Beta(k / 2, (d - k) / 2): .19 is the share above .9
    for a plane in four dimensions."""
    draw = torch.Generator().manual_seed(0)
    rows = random_directions(4000, 4, draw)
    expected = stats.beta.sf(0.81, 1, 1)
    assert expected == pytest.approx(0.19)
    assert score(rows)["latents_per_subspace"] / 4000 == pytest.approx(expected, abs=0.02)


def test_neither_order_nor_length_nor_the_basis_of_the_plane_matters():
    draw = torch.Generator().manual_seed(1)
    rows = torch.randn(40, 4, generator=draw)
    length = torch.rand(40, 1, generator=draw) + 0.1
    before = score(rows)
    assert 0 < before["subspace_cosine"] < 1 and before["latents_per_subspace"] > 0
    assert score((rows * length).flip(0), rows) == pytest.approx(before, abs=1e-6)
    turned = torch.linalg.qr(torch.randn(2, 2, 2, generator=draw)).Q @ PLANES
    batch = Batch(rows)
    other = Config().score(Case(Relu.tied(rows), Evidence(batch, batch, subspaces=turned))).scalars
    assert other == pytest.approx(before, abs=1e-6)
