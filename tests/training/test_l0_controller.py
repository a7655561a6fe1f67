"""The L0 controller: on simulated plants, and in training every architecture that has a penalty to a target."""

from __future__ import annotations

import pytest
import torch

import sae
from sae.sources.independent import Config as Independent
from sae.training.l0_controller import Control

STEPS = 3000
NO, YES = torch.tensor([False]), torch.tensor([True])


def control(target: float, counts: torch.Tensor = NO) -> Control:
    return Control(torch.tensor([target]), counts, torch.zeros(1), torch.zeros(1), STEPS)


@pytest.mark.parametrize("power", [0.4, 1.0, 2.0])
@pytest.mark.parametrize("natural", [2.0, 30.0, 1500.0])
def test_a_penalty_that_shrinks_ends_at_the_target(power: float, natural: float):
    """L0 follows ``natural * weight^-power`` with a lag of a hundred steps, from a dense start."""
    controller, l0 = control(20.0), torch.tensor([2000.0])
    for step in range(STEPS):
        controller.follow_(l0, step / STEPS)
        l0 = l0 * (natural * controller.weight(step / STEPS) ** -power / l0) ** 0.01
    assert float(l0) == pytest.approx(20, rel=0.02)


def test_thresholds_that_rose_too_far_come_down_again():
    """Thresholds move at the pace of the learning rate, whichever way the penalty pushes."""
    controller, threshold = control(5.0, YES), torch.tensor([3.0])
    for step in range(STEPS):
        l0 = 100 * torch.exp(-2 * threshold)
        controller.follow_(l0, step / STEPS)
        threshold = threshold + 1e-3 * controller.weight(step / STEPS).clamp(-1, 1)
    assert float(l0) == pytest.approx(5, rel=0.03)


def test_members_without_a_target_keep_their_weight():
    controller = Control(torch.tensor([torch.nan, 4.0]), NO.expand(2), torch.zeros(2), torch.zeros(2), STEPS)
    controller.follow_(torch.tensor([50.0, 50.0]), 0.5)
    weight = controller.weight(0.5)
    assert weight[0] == 1 and weight[1] > 1
    assert not Control(torch.tensor([torch.nan]), NO, torch.zeros(1), torch.zeros(1), STEPS).is_active


CONTROLLED = {
    "relu": {},
    "relu weighted log": {"decoder": "weighted", "penalty": "log"},
    "relu lp": {"penalty": "lp", "p_anneal": 0.6},
    "gated": {},
    "jumprelu": {},
    "matryoshka": {},
}


@pytest.mark.usefixtures("shapes_unchecked")
@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n == "relu" else pytest.mark.slow) for n in CONTROLLED])
def test_training_ends_at_the_target(name: str):
    """Within 3% on held-out rows, below and near the true mean of 1.9."""
    source = Independent(n_features=32, d_in=16, probability=0.06).build()
    targets = [1.5, 1.8]
    kind, settings = name.split()[0], CONTROLLED[name]
    training = {"steps": 2500, "batch_size": 128, "lr": 3e-3, "resample_every": 500}
    dictionaries = sae.fit(source, kind, n_latents=48, l0=targets, **settings, **training)
    x = source.batch(0, 20_000, "test").acts
    for d, target in zip(dictionaries, targets, strict=True):
        assert float((d.encode(x) > 0).sum(-1).double().mean()) == pytest.approx(target, rel=0.03)
