"""Subspaces of groups of directions: planted ones that are disjoint, shared, used again, and none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles
from torch import Tensor

from sae.analysis.geometry.group_subspaces import (
    group_subspaces,
    leading_basis,
    specific_group,
    specific_of_documents,
    subspace_overlap,
    variance_inside,
)
from sae.numerics.seeds import generator
from sae.registry import UserError

D, N = 32, 24
GROUP = torch.arange(3).repeat_interleave(N)


def inside(*dims: slice) -> Tensor:
    """Random directions, `N` within each range of coordinates, in a random basis."""
    draw = generator("planted")
    rows = torch.zeros(len(dims), N, D)
    for of_group, where in zip(rows, dims, strict=True):
        of_group[:, where] = torch.randn(of_group[:, where].shape, generator=draw)
    turned = torch.linalg.qr(torch.randn(D, D, generator=draw)).Q
    return rows.flatten(0, 1) @ turned


def test_disjoint_subspaces_are_found():
    found = group_subspaces(inside(slice(0, 8), slice(8, 16), slice(16, 24)), GROUP, 8, permutations=99)
    assert found.subspaces.across < 1e-9 and found.subspaces.within == pytest.approx(1)
    assert found.subspaces.p == found.cosines.p == 0.01
    assert found.subspaces.permuted.low > found.subspaces.across
    assert found.nearest.across < 1e-5 and found.nearest.p == 0.01
    assert torch.allclose(found.pairs, torch.eye(3, dtype=torch.float64), atol=1e-9)


def test_a_shared_subspace_is_as_close_across_groups_as_within():
    found = group_subspaces(inside(*[slice(0, 8)] * 3), GROUP, 8, permutations=99)
    assert found.subspaces.across == pytest.approx(1) and found.subspaces.within == pytest.approx(1)
    assert found.cosines.across == pytest.approx(1 / 8, rel=0.1) and found.cosines.p > 0.05


def test_random_directions_share_nothing_beyond_chance():
    found = group_subspaces(inside(*[slice(0, D)] * 3), GROUP, 8, permutations=99)
    assert found.subspaces.p > 0.05 and found.cosines.p > 0.05
    assert found.cosines.across == pytest.approx(1 / D, rel=0.15)
    low, high = found.subspaces.difference_permuted[1:]
    assert low < found.subspaces.difference < high


def test_dimensions_that_other_groups_use_again_are_found():
    """Directions of one group are orthogonal, those of another are the same ones in another order of use."""
    draw = generator("bases")
    bases = [torch.linalg.qr(torch.randn(D, D, generator=draw)).Q[:N] for _ in range(3)]
    found = group_subspaces(torch.cat(bases), GROUP, 8, permutations=99)
    assert found.cosines.within < 1e-9 and found.cosines.across == pytest.approx(1 / D, rel=0.15)
    assert found.subspaces.difference > 0 and found.subspaces.p == found.cosines.p == 0.01


def test_single_directions_that_another_group_uses_again_are_found():
    draw = generator("again")
    once = torch.randn(N, D, generator=draw)
    found = group_subspaces(torch.cat([once, once, once]), GROUP, 8, permutations=99)
    assert found.nearest.across > found.nearest.permuted.high > found.nearest.within and found.nearest.p == 0.01


def test_overlap_is_the_mean_squared_cosine_of_the_principal_angles():
    draw = generator("angles")
    a, b = torch.randn(5, 12, generator=draw), torch.randn(3, 12, generator=draw)
    angles = subspace_angles(a.T.double().numpy(), b.T.double().numpy())
    found = float(subspace_overlap(leading_basis(a), leading_basis(b)))
    assert found == pytest.approx(float(np.mean(np.cos(angles) ** 2)))


def test_the_measures_do_not_depend_on_norms_or_signs_or_order():
    u, draw = inside(slice(0, 20), slice(4, 24), slice(8, 28)), generator("order")
    scale = torch.randn(len(u), 1, generator=draw)
    a, b = (group_subspaces(rows, GROUP, 6, halvings=2, permutations=3) for rows in (u, u * scale))
    assert a.subspaces.across == pytest.approx(b.subspaces.across)
    assert a.cosines.difference == pytest.approx(b.cosines.difference)


def test_weights_choose_the_leading_dimensions():
    rows = torch.eye(4)[:3]
    basis = leading_basis(rows, 1, torch.tensor([0.1, 3.0, 0.2]))
    assert basis[:, 0].abs().tolist() == pytest.approx([0, 1, 0, 0])
    assert variance_inside(basis, torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0]))) == pytest.approx(0.2)
    u, weights = inside(*[slice(0, D)] * 3), torch.ones(3 * N)
    plain, equal = (group_subspaces(u, GROUP, 6, weights=w, halvings=2, permutations=3) for w in (None, weights))
    assert plain.subspaces == equal.subspaces


def test_specific_latents_are_corrected_for_the_sizes_of_groups():
    samples = torch.tensor([1000.0, 100.0])
    #                       even     9 to 1    specific to 1  too few  never
    fired = torch.tensor([[500, 900.0, 50, 10, 0], [50, 10.0, 50, 0, 0]])
    assert specific_group(fired, samples, 0.9, 20).tolist() == [-1, 0, 1, -1, -1]
    assert specific_group(fired, samples, 0.95, 20).tolist() == [-1, -1, -1, -1, -1]


def test_what_cannot_be_compared_is_refused():
    u = inside(*[slice(0, D)] * 3)
    with pytest.raises(UserError, match=r"\[72\] directions of each group; give two groups"):
        group_subspaces(u, torch.zeros(72, dtype=torch.long))
    with pytest.raises(UserError, match=r"\[69, 3\] directions of each group; .* lower share"):
        group_subspaces(u, (torch.arange(72) >= 69).long())
    with pytest.raises(UserError, match=r"rank = 40: give 1 to 32"):
        leading_basis(u, 40)
    with pytest.raises(UserError, match=r"share = 0.5: give more than .5"):
        specific_group(torch.ones(2, 3), torch.ones(2), 0.5)
    with pytest.raises(UserError, match="samples: 2 for 2 groups, the fewest 0; give every group's"):
        specific_group(torch.ones(2, 3), torch.tensor([1.0, 0.0]))


def test_counts_of_documents_are_summed_over_their_groups_without_those_of_none():
    fired = torch.tensor([[60.0, 20.0], [40.0, 30.0], [0.0, 50.0], [500.0, 0.0]])
    samples, group = torch.tensor([100, 300, 200, 900]), torch.tensor([0, 0, 1, -1])
    by_group = specific_group(torch.tensor([[100.0, 50.0], [0.0, 50.0]]), torch.tensor([400.0, 200.0]), 0.9)
    assert specific_of_documents(fired, samples, group, 0.9).tolist() == by_group.tolist() == [0, -1]
    assert specific_of_documents(fired, samples, group, 0.6).tolist() == [0, 1], "50 of 200 against 50 of 400"
