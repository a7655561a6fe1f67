from __future__ import annotations

import pytest
import torch

from sae.analysis.geometry.analogy import analogies
from sae.toys.base import random_directions


def words(n_bits: int, d: int) -> torch.Tensor:
    """A row for every set of attributes, the sum of their directions; row numbers are the bits."""
    directions = random_directions(2 * n_bits, d, torch.Generator().manual_seed(0))
    bits = torch.arange(2**n_bits)[:, None] >> torch.arange(n_bits) & 1
    return torch.cat([bits, 1 - bits], dim=1).float() @ directions


def test_sums_of_attributes_answer_every_analogy():
    rows = words(3, 40)
    a = torch.arange(8)
    given = torch.stack([a, a ^ 1, a ^ 6, a ^ 7], dim=1)
    found = analogies(rows, given)
    assert found.accuracy == 1 and torch.equal(found.found, given[:, 3])
    torch.testing.assert_close(found.cosine, torch.ones(8), atol=1e-5, rtol=0)
    assert found.kept.tolist() == [0] * 8, "d is nearest even among those that are given"


def test_random_words_answer_by_chance():
    rows = random_directions(200, 60, torch.Generator().manual_seed(1))
    given = torch.stack([torch.randperm(200, generator=torch.Generator().manual_seed(s))[:4] for s in range(100)])
    found = analogies(rows, given)
    assert found.accuracy < 0.06 and 60 < float(found.rank.double().mean()) < 140
    assert bool((found.kept >= found.rank).all()) and float((found.kept - found.rank).double().mean()) > 1.5


def test_by_hand():
    rows = torch.tensor([[1.0, 0], [1, 1], [2, 0], [2, 1], [0, -1]])
    found = analogies(rows, torch.tensor([[0, 1, 2, 3], [0, 1, 2, 4]]))
    assert found.found.tolist() == [3, 3] and found.rank.tolist() == [0, 1]
    assert found.kept.tolist() == [0, 4]


@pytest.mark.parametrize(
    ("given", "message"),
    [([[0, 1, 2]], "shape"), ([[0, 1, 2, 9]], "9 or 0 is none of the 5 rows"), ([[0, 1, 2, 2]], "nothing to find")],
)
def test_what_is_no_analogy_is_refused(given: list[list[int]], message: str):
    with pytest.raises(ValueError, match=message):
        analogies(torch.eye(5), torch.tensor(given))
