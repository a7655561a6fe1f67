"""Splitting and composition: by hand, at chance, with held-out selection, and in a toy where composition is known."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

import sae
from sae.dictionaries.relu import Relu
from sae.metric import Case, Evidence, Scores
from sae.metrics.splitting import Config, features_per_direction
from sae.source import Batch, Truth
from sae.toys.base import random_directions

HALF = 0.5**0.5


def case(
    z: torch.Tensor,
    codes: torch.Tensor,
    W_dec: torch.Tensor,
    features: torch.Tensor | None = None,
    choose: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> Case:
    """A dictionary with these decoder rows whose codes are `z`, whatever the activations are."""
    n = codes.shape[1]
    f = torch.eye(n, W_dec.shape[1]) if features is None else features
    truth = Truth(f, torch.ones(n, dtype=torch.bool), torch.full((n,), 0.5))
    z_choose, codes_choose = (z, codes) if choose is None else choose
    found = Case(Relu.tied(W_dec), Evidence(Batch(codes_choose @ f, codes_choose), Batch(codes @ f, codes), truth))
    found.__dict__.update(choose_codes=z_choose, test_codes=z)  # where cached_property keeps them
    return found


def score(*given: torch.Tensor, **others: object) -> Scores:
    return Config().score(case(*given, **others))  # pyright: ignore


def blocks(*runs: tuple[int, int], n_rows: int = 200) -> torch.Tensor:
    """A column for each (start, length): 1 in those rows, 0 elsewhere."""
    columns = torch.zeros(n_rows, len(runs))
    for i, (start, length) in enumerate(runs):
        columns[start : start + length, i] = 1
    return columns


def test_a_feature_cut_in_two_by_hand():
    """Alone each piece has F1 = 2 20 / (20 + 40), together 1. The other feature has a latent of its own."""
    codes, z = blocks((0, 40), (100, 30)), blocks((0, 20), (20, 20), (100, 30))
    found = score(z, codes, torch.eye(2)[[0, 0, 1]])
    assert found.scalars == {
        "split_features": 1 / 2,
        "pieces_per_feature": 3 / 2,
        "composed_latents": 0,
        "features_per_latent": 1,
    }
    assert found.vectors["pieces"].tolist() == [2, 1] and found.vectors["composed"].tolist() == [0, 0, 0]


def test_a_small_remainder_is_no_second_piece():
    """Of 60 rows the first latent has 57, F1 .974, and the second the last three: at most .026 to be gained."""
    codes, z = blocks((0, 60)), blocks((0, 57), (57, 3))
    s = Config(least_firings=1).score(case(z, codes, torch.eye(1).repeat(2, 1))).scalars
    assert s["split_features"] == 0 and s["pieces_per_feature"] == 1
    z = blocks((0, 50), (50, 10))
    s = score(z, codes, torch.eye(1).repeat(2, 1)).scalars
    assert s["split_features"] == 1 and s["pieces_per_feature"] == 2


def test_copies_that_fire_together_split_nothing():
    codes = blocks((0, 40), (20, 50))
    s = score(codes.repeat(1, 3), codes, torch.eye(2).repeat(3, 1)).scalars
    assert s["split_features"] == 0 and s["pieces_per_feature"] == 1


def test_the_latents_of_children_split_no_parent():
    """The parent's latent is silent where its child's fires: absorbed, not split."""
    codes, z = blocks((0, 50), (0, 20)), blocks((20, 30), (0, 20))
    W_dec = torch.tensor([[1.0, 0], [HALF, HALF]])
    found = score(z, codes, W_dec)
    assert found.scalars["split_features"] == 0 and found.vectors["pieces"].tolist() == [1, 1]
    assert found.scalars["composed_latents"] == 0, "the child is the AND of both already"


def test_a_latent_for_two_features_at_once_by_hand():
    """It fires in the 20 samples of both and writes both: F1 with either is 2 20 / (20 + 60) = .5, with the AND 1."""
    codes = blocks((0, 60), (40, 60), (150, 20))
    z = torch.cat([codes[:, :1] * codes[:, 1:2], codes[:, 2:]], dim=1)
    W_dec = torch.tensor([[HALF, HALF, 0], [0, 0, 1]])
    found = score(z, codes, W_dec)
    assert found.scalars["composed_latents"] == 1 / 2 and found.vectors["composed"].tolist() == [1, 0]
    assert found.scalars["features_per_latent"] == 3 / 2 and found.vectors["features"].tolist() == [2, 1]
    one = score(z, codes, torch.eye(3)[[0, 2]]).scalars
    assert one["composed_latents"] == 0, "it fires for both and writes one: a piece of that feature, not a composition"
    weak = torch.tensor([[1.0, 0.24, 0], [0, 0, 1]])
    strong = torch.tensor([[1.0, 0.26, 0], [0, 0, 1]])
    assert [score(z, codes, W).scalars["composed_latents"] for W in (weak, strong)] == [0, 0.5]


def test_a_latent_for_either_feature_is_not_composed_but_contains_both():
    codes = blocks((0, 50), (40, 50))
    s = score(codes.amax(1, keepdim=True), codes, torch.tensor([[HALF, HALF]])).scalars
    assert s["composed_latents"] == 0 and s["features_per_latent"] == 2


def test_tiny_codes_do_not_count():
    g = torch.Generator().manual_seed(0)
    codes, clean = blocks((0, 40), (100, 30)), blocks((0, 20), (20, 20), (100, 30))
    z = clean + 0.09 * torch.rand(200, 3, generator=g)
    expected, found = (score(codes_of, codes, torch.eye(2)[[0, 0, 1]]).scalars for codes_of in (clean, z))
    assert found == expected


def test_a_rise_on_the_validation_samples_alone_does_not_count():
    """There two latents take turns and one is an AND; on the test samples all fire with the first feature."""
    codes = blocks((0, 60), (30, 60))
    turns = torch.cat([blocks((0, 30), (30, 30)), codes[:, :1] * codes[:, 1:]], dim=1)
    together = codes[:, :1].repeat(1, 3)
    W_dec = torch.tensor([[1.0, 0], [1, 0], [HALF, HALF]])
    one, other = score(turns, codes, W_dec), score(together, codes, W_dec, choose=(turns, codes))
    assert one.scalars["split_features"] == 1 and one.scalars["composed_latents"] > 0
    assert other.scalars["split_features"] == 0 and other.scalars["composed_latents"] == 0


def test_frequency_alone_makes_no_piece():
    """A feature active in nine of ten samples: any independent latent has a precision of .9."""
    g = torch.Generator().manual_seed(0)
    codes = (torch.rand(2000, 1, generator=g) < 0.9).float()
    z = (torch.rand(2000, 4, generator=g) < 0.5).float()
    s = score(z, codes, torch.eye(1).repeat(4, 1)).scalars
    assert math.isnan(s["split_features"]) and math.isnan(s["pieces_per_feature"])


def test_independent_firing_is_at_chance():
    """No latent is a piece, none is composed, however many pairs of features there are to choose from."""
    g = torch.Generator().manual_seed(1)
    draw = [(torch.rand(4000, n, generator=g) < p).float() for n, p in ((60, 0.1), (60, 0.1), (50, 0.1), (50, 0.1))]
    z_choose, z, codes_choose, codes = draw
    f, w = random_directions(50, 12, g), random_directions(60, 12, g)
    s = score(z, codes, w, features=f, choose=(z_choose, codes_choose)).scalars
    assert math.isnan(s["split_features"]) and s["composed_latents"] == 0


@pytest.mark.parametrize("d_in", [8, 32])
def test_random_directions_hold_as_many_features_as_the_closed_form_says(d_in: int):
    """A direction contains none of G with probability (1 - q)^G, cos^2 being Beta(1/2, (d - 1)/2)."""
    g = torch.Generator().manual_seed(2)
    f, w = random_directions(20, d_in, g), random_directions(20_000, d_in, g)
    q = stats.beta.sf(0.3**2, 0.5, (d_in - 1) / 2) / 2
    none = float((features_per_direction(w, f, 0.3, 10) == 0).double().mean())
    assert none == pytest.approx((1 - q) ** 20, abs=0.02)


def test_matching_pursuit_equals_a_plain_loop():
    g = torch.Generator().manual_seed(3)
    f, w = random_directions(15, 6, g), random_directions(40, 6, g)
    expected: list[int] = []
    for row in w:
        left, taken = row.clone(), set[int]()
        while len(taken) < 4:
            along = {i: float(left @ f[i]) for i in range(15) if i not in taken}
            best = max(along, key=along.__getitem__)
            if along[best] < 0.3:
                break
            taken.add(best)
            left = left - along[best] * f[best]
        expected.append(len(taken))
    assert features_per_direction(w, f, 0.3, 4).tolist() == expected and len(set(expected)) > 2


def test_true_directions_in_superposition_hold_one_feature_each():
    f = random_directions(40, 16, torch.Generator().manual_seed(4))
    assert features_per_direction(f, f, 0.3, 10).tolist() == [1] * 40


def test_latents_that_hardly_fire_are_left_out():
    codes, z = blocks((0, 40)), blocks((0, 40), (0, 9))
    found = score(z, codes, torch.eye(1).repeat(2, 1))
    assert found.vectors["features"].isnan().tolist() == [False, True] and found.scalars["pieces_per_feature"] == 1
    nothing = score(torch.zeros(200, 2), codes, torch.eye(1).repeat(2, 1)).scalars
    assert all(math.isnan(value) for value in nothing.values())


def test_the_order_and_the_scale_of_latents_do_not_matter():
    g = torch.Generator().manual_seed(5)
    codes = (torch.rand(600, 8, generator=g) < 0.2).float()
    z = torch.cat([codes * (torch.rand(600, 8, generator=g) < 0.6), codes * (torch.rand(600, 8, generator=g) < 0.6)], 1)
    z[:, 3] = codes[:, 0] * codes[:, 1]
    W_dec = torch.eye(8).repeat(2, 1)
    W_dec[3] = torch.tensor([1.0, 1] + [0] * 6)
    before = score(z, codes, W_dec)
    order, factor = torch.randperm(16, generator=g), torch.arange(1, 17.0)
    after = score((z * factor)[:, order], codes, (W_dec / factor[:, None])[order])
    assert after.scalars == pytest.approx(dict(before.scalars)) and before.scalars["composed_latents"] == 1 / 16
    assert before.scalars["split_features"] > 0.5
    assert torch.equal(after.vectors["composed"], before.vectors["composed"][order])


@pytest.mark.slow
@pytest.mark.usefixtures("shapes_unchecked")
def test_superfluous_latents_become_compositions_under_l1():
    """Six latents recover six independent features; of nine latents, some superfluous ones save penalty by writing two
    features at once, 1.41 with one code instead of 2 with two (Anders et al. 2024)."""
    g = torch.Generator().manual_seed(0)
    codes = (torch.rand(8000, 6, generator=g) < 0.2).float()
    f = torch.linalg.qr(torch.randn(12, 12, generator=g)).Q[:6]
    how = {"l1": 0.3, "steps": 1500, "batch_size": 256, "lr": 3e-3, "input_scale": "none", "centre": False}
    for n_latents, least in ((6, 0), (9, 1)):
        for d in sae.fit(codes @ f, "relu", n_latents=n_latents, seeds=[0, 1], **how):
            s = sae.score(d, codes @ f, features=f, codes=codes, metrics=["splitting"])
            hold_two = int(((d.W_dec @ f.T > 0.5).sum(1) == 2).sum())
            assert hold_two >= least and s["composed_latents"] == pytest.approx(hold_two / n_latents), s
            assert s["features_per_latent"] == pytest.approx(1 + hold_two / n_latents)
