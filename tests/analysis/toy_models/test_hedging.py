from __future__ import annotations

import math

import pytest
import torch

import sae
from sae.analysis.toy_models.hedging import hedging_rate
from sae.dictionaries.relu import Relu
from sae.registry import UserError
from sae.toys.base import random_directions

D_IN = 50


def pair(narrow: torch.Tensor, extended: torch.Tensor) -> tuple[Relu, Relu]:
    return Relu.tied(narrow), Relu.tied(extended)


def unit_rows(n: int, seed: int) -> torch.Tensor:
    return random_directions(n, D_IN, torch.Generator().manual_seed(seed))


def mean_share(d: int) -> float:
    """E|u_1| of a uniform unit vector: the mean length of a projection on one random direction."""
    return math.exp(math.lgamma(d / 2) - math.lgamma((d + 1) / 2)) / math.pi**0.5


def test_one_latent_that_gives_its_child_up_by_hand():
    """(e0 + .2 e1) / |.| becomes e0 as e1 gets a latent: moved = .2 / sqrt(1.04), and by chance |W' - W| E|u_1|."""
    e = torch.eye(2, D_IN)
    found = hedging_rate(*pair(e[:1] + 0.2 * e[1:], e), n_draws=4000)
    by_chance = (2 - 2 / 1.04**0.5) ** 0.5 * mean_share(D_IN)
    assert found.moved == pytest.approx(0.2 / 1.04**0.5)
    assert found.by_chance == pytest.approx(by_chance, rel=0.03)
    assert found.rate == pytest.approx((found.moved - found.by_chance) / (1 - found.by_chance))


def test_what_does_not_move_has_not_hedged():
    rows = unit_rows(12, 0)
    found = hedging_rate(*pair(rows[:8], rows))
    assert found == hedging_rate(*pair(rows[:8], rows)) and found.rate == found.moved == found.by_chance == 0


def test_moves_that_have_nothing_to_do_with_the_new_latents_are_at_chance():
    """Rates of both signs with mean 0, which clipping at 0, as published, would hide."""
    rates = []
    for seed in range(30):
        old, noise, new = unit_rows(8, 3 * seed), unit_rows(8, 3 * seed + 1), unit_rows(5, 3 * seed + 2)
        rates.append(hedging_rate(*pair(old, torch.cat([old + 0.3 * noise, new]))).rate)
    assert min(rates) < 0 < max(rates)
    assert sum(rates) / 30 == pytest.approx(0, abs=3 * torch.tensor(rates).std().item() / 30**0.5)


def test_the_order_of_new_latents_and_all_lengths_do_not_matter():
    old, moved, new = unit_rows(6, 0), unit_rows(6, 1), unit_rows(4, 2)
    before = hedging_rate(*pair(old, torch.cat([old + 0.2 * moved, new])))
    length = torch.arange(1.0, 7)[:, None]
    after = hedging_rate(*pair(old * length, torch.cat([3 * (old + 0.2 * moved), 0.1 * new.flip(0)])))
    assert after.rate == pytest.approx(before.rate, abs=1e-6) and before.rate != 0


def test_new_latents_that_say_the_same_span_no_more():
    old, moved, new = unit_rows(6, 0), unit_rows(6, 1), unit_rows(1, 2)
    one, three = (torch.cat([old + 0.2 * moved, new.repeat(n, 1)]) for n in (1, 3))
    assert hedging_rate(*pair(old, three)).moved == pytest.approx(hedging_rate(*pair(old, one)).moved)


def test_latents_in_another_order_are_paired_where_asked_for():
    old, moved, new = unit_rows(6, 0), unit_rows(6, 1), unit_rows(4, 2)
    extended = torch.cat([old + 0.2 * moved, new])
    expected = hedging_rate(*pair(old, extended))
    shuffled = extended[torch.randperm(10, generator=torch.Generator().manual_seed(0))]
    found = hedging_rate(*pair(old, shuffled), matched=False)
    assert found.rate == pytest.approx(expected.rate, abs=1e-6) != hedging_rate(*pair(old, shuffled)).rate


@pytest.mark.parametrize(
    ("narrow", "extended", "message"),
    [
        (torch.eye(2, 5), torch.eye(2, 5), "extended: 0 latents more than narrow; give one with 1 to 4 more"),
        (torch.eye(5)[:1], torch.rand(6, 5), "extended: 5 latents more than narrow"),
        (torch.eye(2, 5), torch.eye(3, 4), "extended: d_in is 4, but narrow has 5"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(narrow: torch.Tensor, extended: torch.Tensor, message: str):
    with pytest.raises(UserError, match=message) as caught:
        hedging_rate(*pair(narrow, extended))
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="n_draws = 0"):
        hedging_rate(*pair(torch.eye(2, 5), torch.eye(3, 5)), n_draws=0)


@pytest.mark.slow
@pytest.mark.usefixtures("shapes_unchecked")
def test_correlated_features_hedge_and_independent_ones_do_not():
    """Ten parents with a child each, in 60 dimensions, learned by ten latents and by twenty; and the same with ten
    independent features of the same frequency in place of the children."""
    g = torch.Generator().manual_seed(0)
    parent = torch.rand(20_000, 10, generator=g) < 0.3
    child = parent & (torch.rand(20_000, 10, generator=g) < 0.4)
    alone = torch.rand(20_000, 10, generator=g) < 0.12
    f = torch.linalg.qr(torch.randn(60, 60, generator=g)).Q[:20]
    how = {"l1": 0.01, "steps": 2000, "batch_size": 256, "lr": 3e-3, "input_scale": "none", "centre": False}
    rates = {}
    for name, second in (("correlated", child), ("independent", alone)):
        x = torch.cat([parent, second], dim=1).float() @ f
        narrow, extended = (sae.fit(x, "relu", n_latents=n, **how)[0] for n in (10, 20))
        rates[name] = hedging_rate(narrow, extended, matched=False).rate
    assert rates["correlated"] > 0.1 and abs(rates["independent"]) < 0.05, rates
