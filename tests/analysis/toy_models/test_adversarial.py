from __future__ import annotations

import math

import pytest
import torch

from sae.analysis.toy_models.adversarial import attack, vulnerability
from sae.registry import UserError
from sae.toys.features.directions import CORNERS, rotation

PENTAGON = CORNERS["pentagon"]


def rows(n: int, p: float, seed: int = 0, size: int = 400) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.rand(size, n, generator=draw) * (torch.rand(size, n, generator=draw) < p)


@pytest.mark.parametrize("turned", [False, True])
def test_orthonormal_features_lose_the_square_of_the_push(turned: bool):
    W = rotation(4, torch.Generator().manual_seed(0)) if turned else torch.eye(4)
    found = attack(W, torch.zeros(4), rows(4, 0.3), length=0.2)
    assert found.clean == pytest.approx(0, abs=1e-8) and found.rise == pytest.approx(0.04, rel=1e-4)
    at_rest = attack(W, torch.zeros(4), torch.zeros(3, 4), length=0.2)
    assert float(at_rest.share[:4].sum()) == 1, "a push along a feature; against one at rest the ReLU forgives"


def test_a_pentagon_at_rest_by_its_closed_form():
    found = attack(PENTAGON, torch.zeros(5), torch.zeros(3, 5), length=0.1)
    expected = 0.01 * 5 * math.cos(math.radians(36)) ** 2
    assert found.clean == 0 and found.attacked == pytest.approx(expected, rel=1e-5)
    assert float(found.share[5:].sum()) == 1, "against a feature, which raises the two opposite by .81 each"


def test_superposition_is_more_vulnerable():
    x = rows(5, 0.05, size=2000)
    without = attack(torch.eye(5, 2), torch.tensor([0, 0, 0.02, 0.02, 0.02]), x)
    crowded = attack(1.13 * PENTAGON, torch.full((5,), -0.24), x)
    assert without.length == pytest.approx(0.1 * float(x.norm(dim=1).mean()))
    # ||W||_F^2 / m is 2.5 times as high
    wide = attack(PENTAGON, torch.zeros(5), x)
    assert vulnerability(wide, without) > 2 and crowded.rise > 0


def test_by_hand_and_weighted():
    """One dimension, a digon, x = (1, 0): x' = (ReLU(1 + s), ReLU(-1 - s)) with s = sqrt(2) lambda, either way."""
    W, b, x = torch.tensor([[1.0], [-1.0]]), torch.zeros(2), torch.tensor([[1.0, 0.0]])
    shift = math.sqrt(2) * 0.1
    found = attack(W, b, x, length=0.1, importance=torch.tensor([3.0, 1.0]))
    assert found.clean == pytest.approx(0) and found.attacked == pytest.approx(3 * shift**2, rel=1e-5)


def test_pieces_and_the_basis_change_nothing(monkeypatch: pytest.MonkeyPatch):
    x, b = rows(5, 0.3), torch.linspace(-0.2, 0.1, 5)
    whole = attack(PENTAGON, b, x)
    turned = attack(PENTAGON @ rotation(2, torch.Generator().manual_seed(1)), b, x)
    monkeypatch.setattr("sae.analysis.toy_models.adversarial.NUMBERS_AT_ONCE", 7 * 50)
    pieces = attack(PENTAGON, b, x)
    assert pieces.attacked == pytest.approx(whole.attacked, rel=1e-6)
    assert turned.attacked == pytest.approx(whole.attacked, rel=1e-4)


def test_what_does_not_fit_is_refused():
    with pytest.raises(UserError, match=r"give \[n, m\], \[n\] and \[batch, n\]"):
        attack(PENTAGON, torch.zeros(2), torch.zeros(3, 5))
    still = attack(torch.eye(2), torch.zeros(2), torch.zeros(3, 2))
    with pytest.raises(UserError, match="give a model whose loss rises"):
        vulnerability(still, still)
