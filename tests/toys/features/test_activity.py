"""Activities have the probabilities of their settings, and the dependence between features of their kind."""

from __future__ import annotations

import math

import pytest
import torch

from sae.numerics.seeds import generator
from sae.toys.features.activity import Activity, Concept, Copula, CorrelatedSets, Fixed, IndependentActivity, OneOf
from sae.toys.features.correlation import Equal, LowRank, Matrix, RandomCorrelation, normals

ROWS = 40_000


def drawn(activity: Activity, n: int, rows: int = ROWS, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Samples as float64, and the firing probabilities."""
    tensors = activity.tensors(n, seed)
    active = activity.draw(tensors, rows, generator("test", seed))
    assert active.shape == (rows, n) and set(active.unique().tolist()) <= {0.0, 1.0}
    return active.double(), tensors["probability"].double()


@pytest.mark.parametrize(
    "activity",
    [
        IndependentActivity(probability=0.05),
        IndependentActivity(probability={"kind": "linear", "first": 0.4, "last": 0.01}),
        Copula(probability={"kind": "linear", "first": 0.4, "last": 0.01}, correlation=Equal(value=0.5)),
        Copula(probability=0.1, correlation=RandomCorrelation()),
        Copula(probability=0.1, correlation=LowRank(rank=5, scale=0.3)),
        CorrelatedSets(size=3, probability=[0.1, 0.2, 0.3, 0.4]),
        OneOf(size=4, probability=0.2),
        OneOf(size=4, probability=[1.0, 0.5, 0.1], weights=(1, 2, 3, 4)),
        Fixed(k=5),
        Concept(k=3),
        Concept(k=6, probability=0.2),
    ],
    ids=lambda a: a.kind,
)
def test_firing_rates_are_the_probabilities(activity: Activity):
    active, p = drawn(activity, 12)
    error = (p * (1 - p) / ROWS).sqrt().clamp_min(1e-9)
    assert float(((active.mean(0) - p).abs() / error)[p < 1].max()) < 4.5


def test_correlated_sets_fire_together_and_apart_from_others():
    active, p = drawn(CorrelatedSets(size=3, probability=0.2), 12)
    sets = active.view(-1, 4, 3)
    assert torch.equal(sets, sets[..., :1].expand_as(sets)) and float(p.mean()) == pytest.approx(0.2)
    phi = torch.corrcoef(sets[..., 0].T)
    assert float((phi - torch.eye(4)).abs().max()) < 5 / ROWS**0.5


def test_one_of_a_set_excludes_the_others():
    sets = drawn(OneOf(size=3, probability=0.6, weights=(1, 2, 3)), 12)[0].view(-1, 4, 3)
    assert float(sets.sum(-1).max()) == 1
    assert float((sets.sum(-1).mean(0) - 0.6).abs().max()) < 0.012
    torch.testing.assert_close(sets.mean((0, 1)) / 0.6, torch.tensor([1, 2, 3]).double() / 6, atol=0.01, rtol=0)


def test_a_set_with_probability_one_always_has_one_active():
    for weights in (None, (0.1, 0.2, 0.3, 0.1, 0.1, 0.1, 0.3)):
        assert torch.equal(drawn(OneOf(size=7, weights=weights), 14)[0].view(-1, 2, 7).sum(-1), torch.ones(ROWS, 2))


def test_fixed_is_exactly_k_and_every_pair_equally_likely():
    active, _ = drawn(Fixed(k=3), 8)
    assert set(active.sum(1).tolist()) == {3.0}
    both = (active.T @ active / ROWS)[torch.triu_indices(8, 8, 1).unbind()]
    assert float((both - 3 / 8 * 2 / 7).abs().max()) < 0.01


def test_the_first_feature_of_a_concept_is_active_only_with_the_first_half():
    active, _ = drawn(Concept(k=3), 12)
    assert set(active.sum(1).tolist()) == {3.0}
    with_first = active[active[:, 0] > 0]
    assert not with_first[:, 6:].any()  # only features 1 to 5 accompany it
    torch.testing.assert_close(with_first[:, 1:6].mean(0), torch.full((5,), 2 / 5).double(), atol=0.015, rtol=0)
    without = active[active[:, 0] == 0]
    torch.testing.assert_close(without[:, 1:].mean(0), torch.full((11,), 3 / 11).double(), atol=0.015, rtol=0)
    full = drawn(Concept(k=6), 12)[0]
    assert torch.equal(full[full[:, 0] > 0][0], torch.tensor([1.0] * 6 + [0.0] * 6).double())


@pytest.mark.parametrize("rho", [-0.3, 0.0, 0.4, 0.9])
def test_a_copula_correlates_as_its_closed_form_at_one_half(rho: float):
    active, _ = drawn(Copula(probability=0.5, correlation=Equal(value=rho)), 3)
    phi = torch.corrcoef(active.T)[torch.triu_indices(3, 3, 1).unbind()]
    assert float((phi - 2 / math.pi * math.asin(rho)).abs().max()) < 0.02


def test_the_normals_have_the_correlation_of_an_explicit_matrix():
    rows = ((1.0, 0.8, 0.0), (0.8, 1.0, -0.5), (0.0, -0.5, 1.0))
    z = normals(Matrix(rows=rows).tensors(3, 0), ROWS, generator("z"))
    torch.testing.assert_close(torch.corrcoef(z.T), torch.tensor(rows), atol=0.02, rtol=0)
    torch.testing.assert_close(z.var(0), torch.ones(3), atol=0.03, rtol=0)


def test_a_low_rank_correlation_has_unit_variances_and_its_factor_off_the_diagonal():
    tensors = LowRank(rank=2, scale=5.0).tensors(40, 0)  # rows are too long and get capped
    covariance = tensors["factor"] @ tensors["factor"].T + tensors["own"].square().diag()
    torch.testing.assert_close(covariance.diagonal(), torch.ones(40))
    assert float(tensors["own"].min()) >= 0.0999
    z = normals(tensors, ROWS, generator("z"))
    torch.testing.assert_close(torch.corrcoef(z.T), covariance, atol=0.025, rtol=0)


def test_a_random_matrix_has_the_shares_of_signs_and_zeros_of_its_settings():
    few = RandomCorrelation(low=0.3, high=0.9, zero=0.3)
    drawn_pairs = []
    for seed in range(300):  # with two features no eigenvalue needs raising
        drawn_pairs.append(float(few.matrix(2, seed)[0, 1]))
    pairs = torch.tensor(drawn_pairs)
    off = pairs[pairs != 0]
    assert abs(float((pairs == 0).float().mean()) - 0.3) < 0.1 and abs(float((off > 0).float().mean()) - 0.5) < 0.12
    assert 0.3 <= float(off.abs().min()) < 0.33 and 0.87 < float(off.abs().max()) <= 0.9
    many = few.matrix(50, 0)
    values = torch.linalg.eigvalsh(many)
    assert float(values[0]) > 0 and float((many.diagonal() - 1).abs().max()) < 1e-12
    upper = many[torch.triu_indices(50, 50, 1).unbind()]
    assert 0.1 < float(upper.abs().mean()) < 0.3  # raised eigenvalues weaken the correlations
    assert float(RandomCorrelation(positive=1.0).matrix(20, 0).min()) > -0.2


def test_signs_of_firing_follow_the_matrix():
    activity = Copula(probability=0.2, correlation=RandomCorrelation())
    active, _ = drawn(activity, 10)
    pair = torch.triu_indices(10, 10, 1).unbind()
    rho = RandomCorrelation().matrix(10, 0)[pair]
    phi = torch.corrcoef(active.T)[pair]
    strong = rho.abs() > 0.1
    assert bool((phi[strong].sign() == rho[strong].sign()).all()) and int(strong.sum()) > 10
    assert bool((phi.abs() < rho.abs() + 0.02).all())


@pytest.mark.parametrize(
    ("activity", "message"),
    [
        (Fixed(k=13), "activity.k = 13: more than n_features = 12"),
        (Concept(k=7), "activity.k = 7: of n_features = 12 only 5 can be active with the first; give at most 6"),
        (OneOf(size=5), "activity.size = 5: does not divide n_features = 12"),
        (CorrelatedSets(size=5, probability=0.1), "activity.size = 5: does not divide"),
        (CorrelatedSets(size=3, probability=[0.1] * 3), "activity.probability: a list of 3 where 4 numbers"),
        (OneOf(size=3, weights=(1, 2)), r"activity.weights = \[1.0, 2.0\]: give one weight above 0 for each of the 3"),
        (OneOf(size=2, weights=(1, 0)), r"activity.weights = \[1.0, 0.0\]: give one weight above 0"),
        (IndependentActivity(probability=0), "activity.probability: number 0 is 0; a probability is above 0"),
        (Copula(probability=0.1, correlation=Equal(value=-0.2)), "not positive semi-definite, the smallest eigenvalue"),
        (Copula(probability=0.1, correlation=Matrix(rows=((1.0,),))), "give 12 rows of 12 numbers"),
    ],
)
def test_impossible_settings_are_errors(activity: Activity, message: str):
    with pytest.raises(ValueError, match=message):
        activity.tensors(12, 0)


def test_a_matrix_that_is_no_correlation_is_an_error():
    for rows in (((1.0, 0.5), (0.4, 1.0)), ((2.0, 0.5), (0.5, 1.0))):
        with pytest.raises(ValueError, match="give a symmetric one with ones on the diagonal"):
            Copula(probability=0.1, correlation=Matrix(rows=rows)).tensors(2, 0)
