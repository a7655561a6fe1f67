"""The test for superposition: rejects planted superposition, not few features; its redraws keep what H0 keeps."""

from __future__ import annotations

import math

import pytest
import torch

from sae.analysis.geometry.few_directions import FewDirections
from sae.analysis.geometry.superposition_test import superposition_test, whitened
from sae.numerics.concave_coding import ConcavePenalty, Overcomplete
from sae.numerics.matching import unit
from sae.numerics.seeds import generator
from sae.registry import UserError
from sae.toys.features.directions import polygon, rotation


def sparse(n: int, rows: int, p: float, seed: int = 0) -> torch.Tensor:
    draw = generator("sparse", n, seed)
    return torch.rand(rows, n, generator=draw) * (torch.rand(rows, n, generator=draw) < p)


def test_a_pentagon_is_rejected_and_has_five_features():
    t = superposition_test(sparse(5, 1500, 0.1) @ polygon(5), n_draws=19, n_gaussian=2, count=True)
    assert t.p == pytest.approx(0.05) and t.advantage > t.null.high
    assert (t.n_dims, t.n_wide, t.n_features.value) == (2, 6, 5)
    assert t.explained_wide > t.explained_narrow > 0.8 and 0 < t.share_active < 0.5
    assert t.p_gaussian == 1 / 3 or t.p_gaussian > 1 / 3  # Gaussian rows are no hypothesis of few features


def test_two_features_at_45_degrees_are_not():
    W = unit(torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    t = superposition_test(sparse(2, 1000, 0.2) @ W + 3.0, n_draws=19, n_starts=3)
    assert t.p > 0.05 and t.narrow_agreement > 0.99
    assert math.isnan(t.n_features.value) and math.isnan(t.p_gaussian)


def test_the_statistic_does_not_depend_on_rotation_scale_or_offset():
    x = sparse(5, 1500, 0.1) @ torch.randn(5, 3, generator=generator("x"))
    moved = 7.0 * x @ rotation(3, generator("r")) + 2.0
    a, b = (superposition_test(one, n_draws=1) for one in (x, moved))
    assert a.advantage == pytest.approx(b.advantage, abs=1e-4)


def test_an_antipodal_pair_is_one_signed_feature():
    W = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    assert superposition_test(sparse(3, 1000, 0.1) @ W, n_draws=9).p > 0.1


def test_whitening_drops_dimensions_that_do_not_vary_and_evens_out_the_others():
    x = torch.cat([sparse(2, 500, 0.2) * torch.tensor([1.0, 1e-3]), torch.zeros(500, 1), torch.ones(500, 1)], dim=1)
    white = whitened(x)
    assert white.shape == (500, 2)
    small, large = sorted(white.var(0, correction=0).tolist())
    assert (
        large == pytest.approx(1.3 / 1.15, rel=1e-3) and 1e-6 < small < 1e-4
    )  # an unlimited amplification would give 1


W45 = unit(torch.tensor([[1.0, 0.3], [-0.2, 1.0]]))
EXACT = Overcomplete(W45, torch.full((2,), 0.5))


def test_redraws_keep_activities_and_magnitudes_and_independent_ones_only_magnitudes():
    active = torch.rand(800, 1, generator=generator("active")).expand(-1, 2) < torch.tensor([0.2, 0.3])
    values = active * (1 + torch.rand(800, 2, generator=generator("values")))  # the first only with the second
    h = FewDirections.of(values @ W45 + 0.5, EXACT, ConcavePenalty(0.3, 4.0))
    assert torch.allclose(h.values, values, atol=1e-4) and float(h.left.abs().max()) < 1e-4
    assert h.share_active == pytest.approx(float(active.double().mean()))
    for independent in (False, True):
        s = torch.linalg.solve(W45.T, (h.redrawn(generator("redraw"), independent) - 0.5).T).T
        assert torch.allclose(s.sort(0).values, values.sort(0).values, atol=1e-3)
        assert torch.equal(s > 0.1, active) is not independent
        assert not torch.allclose(s, values, atol=0.1)


def test_values_keep_their_sign_and_noise_stays_with_its_sample():
    draw = generator("noise")
    values = 3 * sparse(2, 2000, 0.2).sign() * torch.where(torch.rand(2000, 2, generator=draw) < 0.5, 1, -2)
    noise = 0.1 * torch.randn(2000, 2, generator=draw)
    h = FewDirections.of(values @ W45 + noise + 0.5, EXACT, ConcavePenalty(0.6, 4.0))
    assert torch.equal(h.values.sign(), values.sign())
    again = FewDirections.of(h.redrawn(draw), EXACT, ConcavePenalty(0.6, 4.0))
    assert torch.equal(again.values.sign(), values.sign())
    assert torch.allclose(again.left, h.left, atol=1e-4)
    assert torch.allclose(h.left[(values == 0).all(1)], noise[(values == 0).all(1)], atol=1e-5)


def test_directions_of_noise_alone_are_not_redrawn():
    draw = generator("noise")
    x = sparse(1, 3000, 0.1) * W45[0] + 0.3 * torch.randn(3000, 1, generator=draw) * W45[1]
    h = FewDirections.of(x, Overcomplete(W45, torch.zeros(2)), ConcavePenalty(0.1, 4.0))
    assert torch.equal(h.fit.W, W45[:1])
    noise = FewDirections.of(torch.randn(500, 2, generator=draw), EXACT, ConcavePenalty(0.1, 4.0))
    assert noise.values.shape == (500, 0) and noise.share_active == 0
    assert torch.allclose(noise.redrawn(draw), noise.left + 0.5)


@pytest.mark.parametrize(
    ("x", "settings", "match"),
    [
        (torch.randn(30, 5), {}, "rows of rank 5"),
        (torch.ones(30, 5), {}, "do not vary"),
        (torch.tensor([[1.0], [math.nan]]), {}, "finite"),
        (torch.randn(100, 2), {"ratio": 1.0}, "ratio = 1"),
        (torch.randn(100, 2), {"n_draws": 0}, "n_draws = 0"),
        (torch.randn(100, 2), {"concavity": 1.0}, "concavity = 1"),
    ],
)
def test_unusable_rows_and_settings_are_refused(x: torch.Tensor, settings: dict[str, float], match: str):
    with pytest.raises(UserError, match=match):
        superposition_test(x, **settings)  # pyright: ignore[reportArgumentType]


@pytest.mark.slow
def test_the_study_of_its_size_and_power():
    from benchmarks.studies import crowding

    # 40 sets: with size .05, 7 rejections or more happen once in 300 times.
    kinds = list(crowding.NULL.values())
    tests = [superposition_test(k.rows(4, 2000, i), n_draws=19, seed=i) for i in range(4) for k in kinds]
    assert sum(t.p < 0.051 for t in tests) < 7
    d, n, kind = crowding.PLANTED["8 in 4"]
    assert all(superposition_test(kind.rows(d, 4000, i, n), n_draws=19, seed=i).p < 0.051 for i in range(3))
