from __future__ import annotations

import pytest
import torch

from sae.analysis.geometry.analogy import analogies
from sae.registry import UserError
from sae.toys.base import random_directions


def words(n_bits: int, d: int) -> torch.Tensor:
    """A row for every set of attributes, the sum of their directions; row numbers are the bits."""
    directions = random_directions(2 * n_bits, d, torch.Generator().manual_seed(0))
    bits = torch.arange(2**n_bits)[:, None] >> torch.arange(n_bits) & 1
    return torch.cat([bits, 1 - bits], dim=1).float() @ directions


def test_sums_of_attributes_answer_every_analogy():
    rows = words(3, 40)
    a = torch.arange(8)
    quadruples = torch.stack([a, a ^ 1, a ^ 6, a ^ 7], dim=1)
    result = analogies(rows, quadruples)
    assert result.accuracy == 1 and torch.equal(result.nearest, quadruples[:, 3])
    torch.testing.assert_close(result.cosine, torch.ones(8), atol=1e-5, rtol=0)
    assert result.rank_among_all.tolist() == [0] * 8, "d is nearest even among a, b and c"


def test_random_words_answer_by_chance():
    rows = random_directions(200, 60, torch.Generator().manual_seed(1))
    quadruples = torch.stack([torch.randperm(200, generator=torch.Generator().manual_seed(s))[:4] for s in range(100)])
    result = analogies(rows, quadruples)
    assert result.accuracy < 0.06 and 60 < float(result.rank.double().mean()) < 140
    further = result.rank_among_all - result.rank
    assert bool((further >= 0).all()) and float(further.double().mean()) > 1.5


def test_by_hand():
    rows = torch.tensor([[1.0, 0], [1, 1], [2, 0], [2, 1], [0, -1]])
    result = analogies(rows, torch.tensor([[0, 1, 2, 3], [0, 1, 2, 4]]))
    assert result.nearest.tolist() == [3, 3] and result.rank.tolist() == [0, 1]
    assert result.rank_among_all.tolist() == [0, 4]


@pytest.mark.parametrize(
    ("quadruples", "message"),
    [
        ([[0, 1, 2]], "shape"),
        ([[0, 1, 2, 9]], "from 0 to 9; give numbers of rows, 0 to 4"),
        ([[0, 1, 2, 2]], "d equals a, b or c"),
    ],
)
def test_what_is_no_analogy_is_refused(quadruples: list[list[int]], message: str):
    with pytest.raises(UserError, match=message):
        analogies(torch.eye(5), torch.tensor(quadruples))
