"""Trees gate exactly, siblings exclude one another exactly, and probabilities are those of the settings."""

from __future__ import annotations

import itertools

import pytest
import torch

from sae.numerics.seeds import generator
from sae.toys.features.correlation import LowRank
from sae.toys.features.tree import Tree, compensated, generations, siblings_of

ROWS = 40_000


def drawn(tree: Tree, n: int, rows: int = ROWS) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    tensors = tree.tensors(n, 0)
    return tree.draw(tensors, rows, generator("test")), tensors


def agrees(active: torch.Tensor, p: torch.Tensor) -> bool:
    error = (p * (1 - p) / len(active)).sqrt().clamp_min(1e-9)
    return float(((active.mean(0) - p).abs() / error)[p < 1].max()) < 4.5


def test_a_forest_is_laid_out_level_by_level():
    parents = Tree(roots=2, branching=3, depth=2, probability=0.1).layout(30)
    assert parents.tolist() == [-1] * 2 + [0] * 3 + [1] * 3 + [p for c in range(2, 8) for p in [c] * 3] + [-1] * 4
    assert [level.tolist() for level in generations(parents)] == [
        [0, 1, *range(26, 30)],
        list(range(2, 8)),
        list(range(8, 26)),
    ]
    assert siblings_of(torch.tensor([-1, 0, 0, 2, 0])).tolist() == [[1, 2, 4], [3, 5, 5]]


def test_the_tree_of_synthsaebench_has_its_size():
    assert Tree(roots=32, branching=4, depth=3, probability=0.1).layout(2720).unique().numel() == 32 * 21 + 1


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("correlation", [None, LowRank(rank=3, scale=0.5)])
def test_children_are_silent_without_their_parents(exclusive: bool, correlation: LowRank | None):
    tree = Tree(
        roots=3,
        branching=3,
        depth=2,
        probability=0.3,
        given="conditional",
        exclusive=exclusive,
        correlation=correlation,
    )
    active, tensors = drawn(tree, 45)
    child = (tensors["parents"] >= 0).nonzero()[:, 0]
    parent = tensors["parents"][child]
    assert bool((active[:, child] <= active[:, parent]).all()) and float(active[:, child].sum()) > 0
    together = active[:, tensors["siblings"]].sum(-1)
    assert float(together.max()) == (1 if exclusive else 3)


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("given", ["marginal", "conditional", "nearest"])
def test_firing_rates_are_the_stated_probabilities(exclusive: bool, given: str):
    p = [0.6, 0.3, *[0.2, 0.15, 0.1], *[0.12, 0.05, 0.1], *[0.015] * 18, 0.4]
    tree = Tree(roots=2, branching=3, depth=2, probability=p, given=given, exclusive=exclusive)
    active, tensors = drawn(tree, 27)
    assert agrees(active, tensors["probability"])
    expected = torch.tensor(p)
    if given == "conditional":
        child = (tensors["parents"] >= 0).nonzero()[:, 0]
        expected[child[:6]] *= expected[tensors["parents"][child[:6]]]
        expected[child[6:]] *= expected[tensors["parents"][child[6:]]]
    torch.testing.assert_close(tensors["probability"], expected)


def test_a_list_may_have_a_number_for_each_level():
    tree = Tree(roots=2, branching=3, depth=2, probability=[0.4, 0.3, 0.2], given="conditional")
    p = tree.tensors(30, 0)["probability"]
    assert torch.equal(p, torch.cat([torch.full((n,), v) for n, v in ((2, 0.4), (6, 0.12), (18, 0.024), (4, 0.4))]))
    chain = Tree(parents=(-1, 0, 1), probability=[0.5, 0.4, 0.1])  # one feature per level: both readings are the same
    torch.testing.assert_close(chain.tensors(3, 0)["probability"], torch.tensor([0.5, 0.4, 0.1]))


def test_siblings_may_cover_all_samples_of_the_parent():
    active, tensors = drawn(Tree(parents=(-1, 0, 0, 0), probability=[0.5, 0.25, 0.15, 0.1], exclusive=True), 4)
    torch.testing.assert_close(tensors["probability"], torch.tensor([0.5, 0.25, 0.15, 0.1]), atol=1e-4, rtol=0)
    assert agrees(active, tensors["probability"]) and float(active[:, 1:].sum(1).max()) == 1
    assert float((active[:, 1:].sum(1) - active[:, 0]).abs().mean()) < 1e-3


def test_compensation_inverts_the_choice_among_siblings():
    """By summing over every outcome of the coins."""
    conditional = torch.tensor([0.5, 0.2, 0.1, 0.15], dtype=torch.float64)
    coin, share = compensated(conditional, torch.zeros(4, dtype=torch.int64))
    total = torch.zeros(4, dtype=torch.float64)
    for outcome in itertools.product([0.0, 1.0], repeat=4):
        fell = torch.tensor(outcome, dtype=torch.float64)
        if fell.any():
            total += torch.where(fell == 1, coin, 1 - coin).prod() * fell / fell.sum()
    torch.testing.assert_close(total, conditional)
    torch.testing.assert_close(share, conditional)
    assert bool((coin > conditional).all())


def test_nearest_caps_coins_at_one_and_states_the_resulting_probability():
    tree = Tree(parents=(-1, 0, 0), probability=[0.2, 0.3, 0.05], given="nearest", exclusive=True)
    active, tensors = drawn(tree, 3)
    p = tensors["probability"]
    assert float(tensors["coin"][1]) == 1 and float(p[1]) < 0.2 and agrees(active, p)
    assert float(p[2]) == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"parents": (-1, 0, 0), "probability": [0.2, 0.3, 0.1]},
            "feature 1 would be active more often than its parent 0",
        ),
        (
            {"parents": (-1, 0, 0), "probability": [0.2, 0.15, 0.1], "exclusive": True},
            "exclusive children of feature 0 would be active in 1.25 times as many samples",
        ),
        (
            {"parents": (-1, 0, 0), "probability": 0.6, "exclusive": True, "given": "conditional"},
            "exclusive children of feature 0 would be active in 1.2 times",
        ),
        ({"parents": (-1, 2, 0), "probability": 0.1}, "feature 1 has the parent 2; number parents before children"),
        ({"parents": (-1, 0), "probability": 0.1}, "activity.parents: 2 numbers for n_features = 3"),
        (
            {"roots": 2, "branching": 2, "depth": 1, "probability": 0.1},
            "n_features = 3: the trees have 6 nodes",
        ),
    ],
)
def test_impossible_settings_are_errors(settings: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        Tree(**settings).tensors(3, 0)


def test_exactly_one_shape_is_needed():
    for shape in ({}, {"parents": (-1,), "roots": 1}):
        with pytest.raises(ValueError, match="give either parents, or roots"):
            Tree(probability=0.1, **shape)
