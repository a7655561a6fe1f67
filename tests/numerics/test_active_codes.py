"""Codes without their zeros: every way of keeping them gives the same codes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sae.numerics import active_codes
from sae.numerics.active_codes import SplitCodes, ranges


def codes() -> Tensor:
    g = torch.Generator().manual_seed(0)
    z = torch.rand(50, 13, generator=g) * (torch.rand(50, 13, generator=g) < 0.3)
    z[:, 4] = 0
    return z


@pytest.fixture(params=["kept dense", "kept without zeros", "computed again"])
def split(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> SplitCodes:
    z = codes()
    n_bytes = {"kept dense": 2**20, "kept without zeros": z.nbytes - 1, "computed again": 100}[request.param]
    monkeypatch.setattr(active_codes, "KEPT_CODE_BYTES", n_bytes)
    monkeypatch.setattr(active_codes, "GROUP_ENTRIES", 60)
    monkeypatch.setattr(active_codes, "PART_ENTRIES", 25)
    return SplitCodes(lambda rows: z[rows], 50, 13, 16)


def test_blocks_and_all(split: SplitCodes):
    assert [(rows.start, rows.stop) for rows, _ in split.blocks()] == [(0, 16), (16, 32), (32, 48), (48, 50)]
    assert torch.equal(torch.cat([z for _, z in split.blocks()]), codes()) and torch.equal(split.all(), codes())
    assert torch.equal(split.count, codes().count_nonzero(0))


def test_parts_are_all_latents_in_order(split: SplitCodes):
    parts = list(split.parts(most_latents=4))
    assert torch.equal(torch.cat([part.dense() for _, part in parts], dim=1), codes())
    assert [latents.start for latents, _ in parts] == [0, *[latents.stop for latents, _ in parts[:-1]]]
    assert all(len(part.value) <= 25 or part.n_latents == 1 for _, part in parts)
    assert all(part.n_latents <= 4 for _, part in parts)


def test_chosen_latents_in_any_order_and_repeated(split: SplitCodes):
    chosen = torch.tensor([7, 4, 0, 7])
    found = split.at(chosen)
    assert torch.equal(found.dense(), codes()[:, chosen]) and found.count[1] == 0
    assert torch.equal(found.dense(torch.tensor([2, 2])), codes()[:, [0, 0]])
    assert torch.equal(split.within(slice(3, 9)).dense(), codes()[:, 3:9])
    assert split.at(chosen[:0]).dense().shape == (50, 0)


def test_sums_of_products_are_those_of_the_matrix(split: SplitCodes):
    y = torch.rand(50, 3, generator=torch.Generator().manual_seed(1))
    found, z = split.within(slice(0, 13)), codes().double()
    torch.testing.assert_close(found.product(y), z.T @ y.double())
    assert (found.matrix().toarray() == z.T.numpy()).all()
    kept = found.where(found.value > 0.5)
    assert torch.equal(kept.dense(), codes() * (codes() > 0.5))


def test_samples_are_encoded_once_where_their_codes_fit(monkeypatch: pytest.MonkeyPatch):
    z, seen = codes(), list[slice]()

    def encode(rows: slice) -> Tensor:
        seen.append(rows)
        return z[rows]

    monkeypatch.setattr(active_codes, "KEPT_CODE_BYTES", z.nbytes - 1)
    split = SplitCodes(encode, 50, 13, 16)
    for _ in range(3):
        assert len(list(split.blocks())) == 4 and list(split.parts()) and split.at(torch.tensor([1])).n_latents == 1
    assert len(seen) == 5, "the first block is encoded twice, to see how large its codes are"


def test_a_latent_with_too_many_codes_is_a_range_of_its_own():
    assert [(r.start, r.stop) for r in ranges(torch.tensor([1, 9, 2, 2]), 4, 10)] == [(0, 1), (1, 2), (2, 4)]
    assert list(ranges(torch.zeros(0, dtype=torch.int64), 4, 10)) == []
