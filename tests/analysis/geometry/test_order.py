from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae.analysis.geometry.order import adjacent, order_with_controls, seriation
from sae.registry import UserError
from sae.toys.features.directions import rotation


def clusters(n: int, each: int, d: int, noise: float = 0.2) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    centres = torch.randn(n, d, generator=draw).repeat_interleave(each, 0)
    rows = centres + noise * torch.randn(n * each, d, generator=draw)
    return rows[torch.randperm(len(rows), generator=draw)]


@pytest.mark.parametrize("way", ["leaves", "chain"])
def test_rows_round_a_half_circle_are_put_in_their_order(way: str):
    """Lines, not vectors: cos^2 does not distinguish w from -w, so that half a circle covers all of them."""
    angle = torch.linspace(0.1, 2.9, 40)
    draw = torch.Generator().manual_seed(0)
    sign = torch.randint(2, (40,), generator=draw) * 2.0 - 1
    shuffle = torch.randperm(40, generator=draw)
    rows = (torch.stack([angle.cos(), angle.sin()], dim=1) * sign[:, None])[shuffle]
    steps = shuffle[seriation(rows, way)].diff().abs()  # pyright: ignore
    assert (steps == 1).sum() >= 37, "all but where a chain that began in the middle turns back, or the circle closes"


@pytest.mark.parametrize("way", ["leaves", "chain"])
def test_clusters_end_up_side_by_side_beyond_both_controls(way: str):
    rows = clusters(12, 8, 40)
    found = order_with_controls(rows, way=way, shuffles=5, randoms=6)  # pyright: ignore
    assert found.adjacent > 0.8 and found.is_structured
    assert found.shuffled.mean < found.random.low < found.random.high < found.adjacent
    assert found.shuffled.n == 5 and found.random.n == 6


def test_noise_is_no_structure_however_well_it_is_ordered():
    noise = torch.randn(200, 30, generator=torch.Generator().manual_seed(7))
    found = order_with_controls(noise, randoms=6)
    assert found.adjacent > found.shuffled.high, "an order can always be found"
    assert found.adjacent == pytest.approx(found.random.mean, rel=0.1) and found.way == "leaves"
    assert found.shuffled.mean == pytest.approx(1 / 30, rel=0.2)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(3, 30), d=st.integers(1, 8), seed=st.integers(0, 100), way=st.sampled_from(["leaves", "chain"]))
def test_an_order_is_a_permutation_that_neither_length_nor_sign_nor_basis_changes(n: int, d: int, seed: int, way: str):
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randn(n, d, generator=draw)
    order = seriation(rows, way)  # pyright: ignore
    assert sorted(order.tolist()) == list(range(n))
    other = rows * (torch.rand(n, 1, generator=draw) + 0.5) * (torch.randint(2, (n, 1), generator=draw) * 2 - 1)
    again = adjacent(other, seriation(other @ rotation(d, draw), way))  # pyright: ignore
    assert again == pytest.approx(adjacent(rows, order), rel=0.05, abs=0.02)


def test_the_mean_of_neighbours_by_hand():
    rows = torch.tensor([[1.0, 0], [0, 2], [3, 3], [0, 0]])
    assert adjacent(rows, torch.tensor([0, 2, 1, 3])) == pytest.approx((0.5 + 0.5 + 0) / 3)
    with pytest.raises(UserError, match="fewer than three are not zero"):
        order_with_controls(rows[[0, 1, 3]])


@pytest.mark.slow
def test_four_thousand_rows_are_ordered():
    """Neurons of a small language model: 4096 rows of 256."""
    rows = clusters(512, 8, 256, noise=0.7)
    found = order_with_controls(rows, shuffles=5, randoms=2)
    assert found.way == "chain" and found.is_structured and found.adjacent > 5 * found.random.mean
