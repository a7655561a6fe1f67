"""Results of 'Toy Models of Superposition' (Elhage et al. 2022) and later papers, reproduced.

The slow tests train at full size: `python -m pytest -m slow tests/toys/networks`. `python -m benchmarks.toys` prints
the numbers.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sae.analysis.geometry.geometry import dimensionality
from sae.sources.network import Config, Hidden

pytestmark = pytest.mark.usefixtures("shapes_unchecked")

FALLING = {"kind": "geometric", "ratio": 0.7, "first": 1.0}
DENSITIES = [1, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001]
UNTIED = {"tied": False, "activation": "relu"}


def trained(n_features: int, probability: Any, **settings: Any) -> Hidden:
    activity = {"kind": "independent", "probability": probability}
    return Config(n_features=n_features, activity=activity, **settings).build()


def best_rows(source: Hidden) -> torch.Tensor:
    """``[n_points, n_features, d_hidden]`` of the best instance of every point."""
    losses = source.tensors["choose_loss"].view(-1, source.config.instances)
    n = source.config.instances
    return torch.stack([source.networks.W[i * n + int(row.argmin())] for i, row in enumerate(losses)])


@pytest.mark.slow
def test_linear_bottlenecks_keep_the_five_most_important_at_the_closed_forms_loss():
    p = torch.tensor([1, 0.3, 0.1])
    source = trained(
        20,
        1,
        network={"hidden": [5], "output": "linear"},
        importance=FALLING,
        instances=2,
        vary={"activity.probability": p.tolist()},
        training={"steps": 10_000, "batch_size": 512, "lr": 2e-3},
    )
    expected = (p / 3 - p**2 / 4) * sum(0.7**i for i in range(5, 20)) / 20
    loss = source.tensors["loss"].view(3, 2).amin(1)
    torch.testing.assert_close(loss, expected, rtol=0.02, atol=0)
    assert ((best_rows(source).norm(dim=2) > 0.5).sum(1) == 5).all()


@pytest.mark.slow
def test_the_sparser_the_features_the_more_are_represented():
    """About four minutes on one core."""
    source = trained(
        20,
        1,
        network={"hidden": [5]},
        importance=FALLING,
        instances=3,
        vary={"activity.probability": DENSITIES},
        training={"steps": 10_000, "batch_size": 1024, "lr": 1e-3, "decay": "constant"},
    )
    rows = best_rows(source)
    n = (rows.norm(dim=2) > 0.5).sum(1).tolist()
    assert n[0] == 5 and n == sorted(n) and 11 <= n[-1] <= 15
    represented = rows[2][rows[2].norm(dim=1) > 0.5]
    unit = represented / represented.norm(dim=1, keepdim=True)
    assert int((unit @ unit.T < -0.95).sum()) // 2 >= 3, "antipodal pairs at S = .9"


@pytest.mark.slow
def test_equal_features_settle_in_antipodal_pairs():
    """At p = .28; the dimensionalities never sum to more than d_hidden."""
    source = trained(
        200, 1, network={"hidden": [20]}, instances=4, vary={"activity.probability": [1, 0.43, 0.28, 0.12, 0.05]}
    )
    total = torch.stack([dimensionality(w).sum() for w in source.networks.W])
    assert float(total.max()) <= 20 + 1e-3
    rows = best_rows(source)[2]
    D = dimensionality(rows)[rows.norm(dim=1) > 0.5]
    assert float(((D - 0.5).abs() < 0.02).float().mean()) > 0.9


def test_two_features_share_a_dimension_where_the_closed_form_says_so():
    """Opposite where p < 4r/(2 + 5r), or 4/(5 + 2r) for r above 1; tested a factor of two away from the border."""
    ratios, densities = [0.1, 0.3, 1.0, 3.0, 10.0], [0.01, 0.03, 0.1, 0.3, 1.0]
    source = trained(
        2,
        1,
        network={"hidden": [1]},
        instances=8,
        vary={"activity.probability": densities, "importance": [[1, r] for r in ratios]},
        training={"steps": 1500},
    )
    both = (best_rows(source)[..., 0].abs() > 0.5).all(1).view(5, 5)
    r, p = torch.tensor(ratios)[None], torch.tensor(densities)[:, None]
    border = torch.where(r <= 1, 4 * r / (2 + 5 * r), 4 / (5 + 2 * r))
    clear = (p < border / 2) | (p > border * 2)
    assert int(clear.sum()) >= 15
    assert bool((both == (p < border))[clear].all())


@pytest.mark.slow
def test_the_sparser_the_fewer_neurons_compute_one_absolute_value_alone():
    source = trained(
        50,
        1,
        signed=True,
        task="absolute",
        importance={**FALLING, "ratio": 0.9},
        network={"hidden": [20], **UNTIED},
        instances=3,
        vary={"activity.probability": [1, 0.3, 0.1, 0.03, 0.01]},
        training={"steps": 6000, "batch_size": 512},
    )
    rows = best_rows(source)
    share = rows.square().amax(1) / rows.square().sum(1)
    alone = (share > 0.9).sum(1).tolist()
    assert alone == sorted(alone, reverse=True) and alone[0] >= 18 and alone[-1] <= 2


@pytest.mark.slow
def test_squares_are_for_gelu_what_corners_are_for_relu():
    def unexplained(task: str, activation: str) -> float:
        network = {"hidden": [8], "tied": False, "activation": activation}
        source = trained(4, 1, signed=True, task=task, network=network, instances=16)
        return float(source.tensors["unexplained"].min())

    assert unexplained("square", "gelu") < unexplained("square", "relu") / 5
    assert unexplained("max_absolute", "relu") < unexplained("max_absolute", "gelu") / 5


@pytest.mark.slow
def test_a_dictionary_finds_the_corners_of_a_pentagon_that_was_learned():
    """With spare latents and enough penalty; with less penalty it reconstructs better and recovers less."""
    import sae

    source = trained(5, 0.05, network={"hidden": [2]}, instances=8, training={"steps": 2000})
    found = sae.fit(
        source, "relu", n_latents=10, l1=[0.01, 0.3], seeds=[0, 1], steps=3000, batch_size=512, lr=3e-3, **UNSCALED
    )
    x = source.batch(0, 10_000, "test")
    assert source.truth is not None and bool(source.truth.represented.all())
    scores = [sae.score(d, x.acts, features=source.truth.directions, codes=x.codes) for d in found]
    low, high = scores[:2], scores[2:]
    assert min(s["mmcs_truth"] for s in high) > 0.98
    assert max(s["fvu"] for s in low) < min(s["fvu"] for s in high)
    assert max(s["mmcs_latents"] for s in low) < min(s["mmcs_latents"] for s in high)


UNSCALED = {"input_scale": "none", "centre": "none"}
