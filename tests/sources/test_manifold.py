"""Features of several shapes at once."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from sae.sources.manifold import Config, bases

EVERYTHING: dict[str, Any] = {"sparse": 12, "dense": 2, "circles": 3, "clusters": 4, "stray": 0.1, "d_in": 16}


def test_what_the_directions_do_not_explain_lies_in_the_planes() -> None:
    source = Config(**{**EVERYTHING, "clusters": 0}).build()
    batch = source.batch(0, 500)
    assert batch.codes is not None and source.truth is not None and source.subspaces is not None
    rest = batch.acts - batch.codes @ source.truth.directions
    basis = torch.linalg.qr(source.subspaces.flatten(0, 1).T).Q
    torch.testing.assert_close(rest @ basis @ basis.T, rest, atol=1e-5, rtol=0)
    assert float(rest.norm(dim=1).max()) > 0.4


def test_a_circle_has_every_place_at_its_radius() -> None:
    config = Config(d_in=4, sparse=1, probability=1e-9, circles=1, circle_probability=1.0, values={"kind": "constant"})
    source = config.build()
    assert source.subspaces is not None
    place = source.batch(0, 4000).acts @ source.subspaces[0].T
    torch.testing.assert_close(place.norm(dim=1), torch.ones(4000))
    angle = torch.atan2(place[:, 1], place[:, 0])
    share = torch.histc(angle, 8, -math.pi, math.pi) / 4000
    assert float((share - 1 / 8).abs().max()) < 0.03


def test_rates_are_what_they_are_said_to_be_and_every_row_is_in_one_cluster() -> None:
    source = Config(**EVERYTHING).build()
    codes = source.batch(0, 20_000).codes
    assert codes is not None and source.truth is not None
    share = (codes > 0).float().mean(0)
    torch.testing.assert_close(share, source.truth.probability, atol=0.015, rtol=0)
    assert bool(((codes[:, 14:] > 0).sum(1) == 1).all())
    assert source.truth.probability.tolist() == pytest.approx([0.02] * 12 + [0.5] * 2 + [0.25] * 4)


def test_a_cluster_strays_in_its_own_plane_and_as_far_as_asked() -> None:
    source = Config(d_in=16, sparse=0, clusters=2, stray=0.3).build()
    batch = source.batch(0, 4000)
    assert batch.codes is not None and source.truth is not None
    own = batch.codes.argmax(1) == 0
    away = (batch.acts - batch.codes @ source.truth.directions)[own]
    strength = torch.linalg.svdvals(away) / math.sqrt(len(away))
    assert strength[:2].tolist() == pytest.approx([0.3, 0.3], rel=0.1)
    assert float(strength[2]) < 1e-5


def test_planes_are_orthonormal() -> None:
    plane = bases(5, 7, torch.Generator().manual_seed(0))
    torch.testing.assert_close(plane @ plane.mT, torch.eye(2).expand(5, 2, 2))


def test_it_provides_subspaces_where_it_has_circles() -> None:
    assert "subspaces" in Config(**EVERYTHING).provides
    assert "subspaces" not in Config(d_in=4, sparse=3).provides


def test_nothing_with_a_direction_is_refused() -> None:
    with pytest.raises(ValueError, match="no feature has a direction; raise one of them"):
        Config(d_in=4, sparse=0, circles=2)
