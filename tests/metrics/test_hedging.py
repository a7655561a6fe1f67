"""Features without a latent in the latents of others: by hand, without correlation, and in the toys of the paper."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

import sae
from sae.dictionaries.relu import Relu
from sae.metric import Case, Evidence, Scores
from sae.metrics.hedging import Config, correlations
from sae.source import Batch, Truth
from sae.sources.features import Config as Features
from sae.toys.base import random_directions


def score(rows: torch.Tensor, codes: torch.Tensor, f: torch.Tensor | None = None, **settings: Any) -> Scores:
    f = torch.eye(codes.shape[1], rows.shape[1]) if f is None else f
    batch = Batch(codes @ f, codes)
    truth = Truth(f, torch.ones(len(f), dtype=torch.bool), torch.full((len(f),), 0.5))
    return Config(**settings).score(Case(Relu.tied(rows), Evidence(batch, batch, truth)))


def family(n_rows: int = 400) -> torch.Tensor:
    """A parent in half of the samples, its child in half of those, a third feature that excludes the parent, and a
    fourth in every third sample."""
    row = torch.arange(n_rows)
    return torch.stack([row % 2 == 0, row % 4 == 0, row % 2 == 1, row % 3 == 0], dim=1).float()


def test_by_hand():
    """Of four features the parent and the fourth have latents. The child's correlation with the parent is 1 / sqrt(3),
    the third's, which excludes it, -1; e of a latent f0 + a f1 - b f2 is a / norm and, its sign turned, b / norm."""
    rows = torch.tensor([[1.0, 0.3, -0.4, 0], [0, 0, 0, 2]])
    found = score(rows, family())
    norm = 1.25**0.5
    assert found.vectors["hedged"].tolist()[1:3] == pytest.approx([0.3 / norm, 0.4 / norm])
    assert found.scalars == {"homeless": 0.5, "hedged": pytest.approx(0.35 / norm)}
    assert found.vectors["hedged"].isnan().tolist() == [True, False, False, True]


def test_true_directions_hedge_nothing_even_if_too_few():
    everything = score(torch.eye(4), family()).scalars
    assert everything["homeless"] == 0 and math.isnan(everything["hedged"])
    f = random_directions(4, 6, torch.Generator().manual_seed(0))
    half = score(f[[0, 3]], family(), f).scalars
    assert half["homeless"] == 0.5 and half["hedged"] == pytest.approx(0, abs=1e-6)


def test_overlap_between_the_features_themselves_is_no_hedging():
    f = torch.tensor([[1.0, 0, 0], [0.6, 0.8, 0], [0, 0, 1]])
    codes = family()[:, :3]
    assert score(f[[0]], codes, f).scalars["hedged"] == pytest.approx(0, abs=1e-6)
    off = torch.tensor([[1.0, 0, 0.2]])  # noise in a third direction: none of the child
    e = score(off, codes, f).vectors["hedged"]
    assert e[1] == pytest.approx(0, abs=1e-6) and e[2] == pytest.approx(-0.2 / 1.04**0.5)


def test_errors_that_ignore_correlation_are_at_chance():
    """200 parents with noisy latents, each with a child without one: e is symmetric about 0, of spread s / sqrt(d)."""
    g = torch.Generator().manual_seed(1)
    parent = (torch.rand(3000, 200, generator=g) < 0.2).float()
    codes = torch.cat([parent, parent * (torch.rand(3000, 200, generator=g) < 0.3)], dim=1)
    f = random_directions(400, 64, g)
    rows = f[:200] + 0.5 * random_directions(200, 64, g)
    found = score(rows, codes, f)
    spread = (0.2 / 64) ** 0.5  # .2 of a unit row is noise, and 1 / 64 of that lies along any other direction
    assert found.vectors["hedged"][200:].std() == pytest.approx(spread, rel=0.2)
    assert abs(found.scalars["hedged"]) < 3 * spread / 200**0.5


def test_independent_features_have_nothing_to_hedge():
    g = torch.Generator().manual_seed(2)
    codes = (torch.rand(4000, 6, generator=g) < 0.3).float()
    s = score(torch.eye(6)[:3] + 0.3 * torch.eye(6).roll(3, 1)[:3], codes).scalars
    assert s["homeless"] == 0.5 and math.isnan(s["hedged"])


def test_rare_features_are_left_out_and_the_limits_hold():
    codes = family()
    codes[:, 1] = 0
    codes[:36:4, 1] = 1
    rows = torch.tensor([[1.0, 0.3, 0, 0]])
    assert score(rows, codes).vectors["hedged"][1].isnan()
    codes[36, 1] = 1
    assert not score(rows, codes, min_correlation=0.05).vectors["hedged"][1].isnan()
    assert score(rows, codes, min_correlation=0.5).vectors["hedged"][1].isnan()


def test_the_order_and_the_length_of_latents_do_not_matter():
    g = torch.Generator().manual_seed(3)
    rows = torch.eye(4)[:2] + 0.2 * torch.rand(2, 4, generator=g)
    before = score(rows, family()).scalars
    assert score(rows.flip(0) * torch.tensor([[3.0], [0.1]]), family()).scalars == pytest.approx(dict(before))
    assert before["hedged"] != 0


def test_correlations_equal_numpys():
    import numpy as np

    g = torch.Generator().manual_seed(4)
    a, b = torch.rand(80, 3, generator=g) < 0.3, torch.rand(80, 4, generator=g) < 0.5
    expected = np.corrcoef(a.T.float(), b.T.float())[:3, 3:]
    torch.testing.assert_close(correlations(a, b), torch.from_numpy(expected).float(), atol=1e-5, rtol=0)
    assert correlations(a, torch.ones(80, 1, dtype=torch.bool)).tolist() == [[0], [0], [0]]


def toy(parents: list[int], probability: list[float]) -> Features:
    """Orthonormal features of magnitude 1 in 50 dimensions, the toys of Chanin et al. 2025."""
    activity = {"kind": "tree", "parents": parents, "probability": probability, "given": "conditional"}
    return Features(
        n_features=len(parents),
        d_in=50,
        activity=activity,  # pyright: ignore
        values={"kind": "constant"},  # pyright: ignore
        directions={"kind": "orthonormal"},  # pyright: ignore
    )


TRAINING = {"steps": 2000, "batch_size": 256, "lr": 3e-3, "input_scale": "none", "centre": False}


@pytest.mark.slow
@pytest.mark.usefixtures("shapes_unchecked")
def test_one_latent_for_a_parent_and_a_child_contains_the_child_as_least_error_predicts():
    """p = .25, q = p(child | parent) = .2, l1 = 1e-3: the direction is the leading eigenvector of [[1, q], [q, q]], and
    hedged = sin(arctan(2q / (1 - q)) / 2) = .230. If the second is independent, none of it is mixed in."""
    together, apart = toy([-1, 0], [0.25, 0.2]).build(), toy([-1, -1], [0.25, 0.2]).build()
    found = {}
    for name, source in (("together", together), ("apart", apart)):
        [d] = sae.fit(source, "relu", n_latents=1, l1=1e-3, **TRAINING)
        batch, choose = source.batch(0, 8000, "test"), source.batch(0, 8000, "choose")
        case = Case(d, Evidence(choose, batch, source.truth))
        found[name] = case.matching.cosines.block(slice(0, 1))[:, 0].tolist(), Config().score(case).scalars
    assert found["together"][1] == {"homeless": 0.5, "hedged": pytest.approx(math.sin(math.atan(0.5) / 2), abs=0.02)}
    cosine, s = found["apart"]
    assert cosine == pytest.approx([1, 0], abs=0.02) and s["homeless"] == 0.5 and math.isnan(s["hedged"])


def test_the_truth_is_needed():
    batch = Batch(torch.zeros(2, 3), torch.zeros(2, 2))
    assert not Config().served_by(Evidence(batch, batch).provides)
    e = Evidence(batch, batch, Truth(torch.eye(2, 3), torch.ones(2, dtype=torch.bool), torch.zeros(2)))
    assert Config().served_by(e.provides) and not Config().served_by(replace(e, test=Batch(batch.acts)).provides)
