"""The positional subspace: a planted one is recovered with its R^2, and only the right component writes to it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sae.analysis.circuits.positional import Subspace, components, share_inside, subspace, write_shares
from sae.analysis.geometry.moments import Moments, directions_of, matched_gaussian
from sae.numerics.seeds import generator
from sae.toys.features.directions import rotation

D, P, N = 16, 20, 20_000
BASIS = rotation(D, generator("basis")).double()


def stream() -> tuple[Tensor, Tensor, Tensor]:
    """Positions on a circle in two directions of large variance, noise in four more, little variance elsewhere."""
    draw = generator("stream")
    position = torch.randint(P, (N,), generator=draw)
    angle = 2 * torch.pi * position / P
    x = torch.randn(N, D, generator=draw, dtype=torch.float64) * torch.tensor([0.5] * 2 + [5.0] * 4 + [0.01] * 10)
    x[:, 0] += 4 * angle.cos()
    x[:, 1] += 4 * angle.sin()
    return (x @ BASIS + 100).float(), position, torch.randint(5, (N,), generator=draw)


def moments(x: Tensor, part: Tensor, position: Tensor | None = None, size: int = 3000) -> Moments:
    found = Moments(x.shape[1], P if position is not None else 1)
    for rows in torch.arange(len(x)).split(size):
        found.add(x[rows], part[rows], None if position is None else position[rows])
    return found


@pytest.fixture(scope="module")
def found() -> tuple[Moments, Moments]:
    x, position, part = stream()
    return moments(x, part, position), moments(x, part, position[torch.randperm(N, generator=generator("p"))])


def test_moments_are_those_of_the_rows_and_of_each_part(found: tuple[Moments, Moments]):
    x, position, part = stream()
    x = x.double()
    torch.testing.assert_close(found[0].covariance(), torch.cov(x.T, correction=0), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found[0].covariance(2), torch.cov(x[part == 2].T, correction=0), rtol=1e-6, atol=1e-6)
    at = found[0].positional()[7] / float((position == 7).double().mean()) ** 0.5
    torch.testing.assert_close(at, x[position == 7].mean(0) - x.mean(0), rtol=1e-6, atol=1e-6)


def test_components_of_position_are_told_from_those_that_are_larger(found: tuple[Moments, Moments]):
    fitted = components(*found, most=6)
    r2 = [c.r2.value for c in fitted]
    assert sum(r > 0.9 for r in r2) == 2 and sum(abs(r) < 0.01 for r in r2) == 4
    # 8 of 8.25 lies between positions in the planted directions.
    assert max(r2) == pytest.approx(8 / 8.25, abs=0.01)
    assert sum(c.variance for c in fitted) == pytest.approx(1, abs=0.01)
    for c in fitted:
        assert abs(c.permuted.value) < 0.005 and c.permuted.low < 0.001
        assert c.linear.value <= c.r2.value + 0.01 and c.linear.value < 0.7  # a circle is not a line


def test_the_subspace_is_the_planted_one(found: tuple[Moments, Moments]):
    fitted = subspace(*found)
    assert fitted.rank == 2
    planted = BASIS[:2]
    assert float((fitted.basis @ planted.T).square().sum()) == pytest.approx(2, abs=0.01)
    assert fitted.between.low < 16 / (16 + 0.5 + 100) < fitted.between.high
    nothing = subspace(found[1], found[1])
    assert nothing.rank == 0 and abs(nothing.between.value) < 0.002
    assert subspace(*found, rank=5).rank == 5


def test_few_rows_a_position_do_not_make_directions_of_noise():
    x, position, part = stream()
    some = slice(0, 15 * P)
    few = moments(x[some], part[some], position[some])
    null = moments(x[some], part[some], position[some][torch.randperm(15 * P, generator=generator("few"))])
    fitted = subspace(few, null)
    assert fitted.rank == 2 and float((fitted.basis @ BASIS[:2].T).square().sum()) > 1.7


def test_writes_are_shares_of_variance_beside_both_controls(found: tuple[Moments, Moments]):
    x, _, part = stream()
    projector = (BASIS[:2].T @ BASIS[:2]).float()
    outputs = {
        "into": moments(x @ projector, part),
        "beside": moments(x - x @ projector, part),
        "round": moments(torch.randn(N, D, generator=generator("round")), part),
    }
    into, beside, round_ = write_shares(
        subspace(*found), found[0], {name: [m.covariance(p) for p in range(5)] for name, m in outputs.items()}
    )
    assert into.share.value == pytest.approx(1, abs=1e-3) and into.is_above
    assert beside.share.value < 1e-3 and not beside.is_above
    assert round_.share.value == pytest.approx(2 / D, abs=0.01) == round_.random.value and not round_.is_above
    assert into.random.value == pytest.approx(2 / D, abs=0.03)
    # Subspaces of the stream's covariance lie in directions of large variance: much more than r / d is inside them, and
    # still less than of the component.
    assert into.random.value < into.matched.value < into.share.low


def test_a_turned_stream_has_the_same_answers(found: tuple[Moments, Moments]):
    x, position, part = stream()
    turn = rotation(D, generator("turn"))
    other = moments(x @ turn, part, position)
    torch.testing.assert_close(
        directions_of(other.covariance())[0], directions_of(found[0].covariance())[0], rtol=1e-4, atol=1e-4
    )
    fitted, turned = subspace(*found), subspace(other, found[1])
    assert turned.between.value == pytest.approx(fitted.between.value, abs=1e-4)
    share = share_inside(other.covariance(), Subspace(fitted.basis @ turn.double(), fitted.between).basis)
    assert share == pytest.approx(share_inside(found[0].covariance(), fitted.basis), abs=1e-4)


def test_random_rows_have_the_covariance_they_are_matched_to(found: tuple[Moments, Moments]):
    covariance = found[0].covariance()
    [rows] = matched_gaussian(covariance, 50_000, seed=0, draws=1)
    torch.testing.assert_close(torch.cov(rows.T), covariance, rtol=0.1, atol=0.2)
