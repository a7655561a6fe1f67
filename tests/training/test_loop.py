"""The loop: bit-exact resumption, members that train the same in any stack, constraints, resampling."""

from __future__ import annotations

import pytest
import torch

from sae.dictionaries.relu import Config as Relu
from sae.numerics.schedules import trapezoid
from sae.sources.independent import Config as Independent
from sae.training.config import TrainConfig
from sae.training.dead_latents import resample_
from sae.training.loop import train, train_side_by_side
from sae.training.prefetch import Pair
from sae.training.stack import Stack
from sae.training.state import State, select_members

SOURCE = Independent(n_features=12, d_in=8, probability=0.1).build()
SETTINGS = TrainConfig(steps=60, batch_size=32, log_every=10, resample_every=20, dead_after=10, resample_pool=64)


def members(*l1_and_seed: tuple[float, int], decoder: str = "unit") -> list[tuple[Relu, int]]:
    return [(Relu(n_latents=16, l1=l1, decoder=decoder), seed) for l1, seed in l1_and_seed]


def last(states) -> State:
    *_, state = states
    return state


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


@pytest.mark.parametrize("stop", [10, 20, 30, 60])
def test_a_resumed_run_ends_on_the_same_bits(stop: int):
    stack = members((0.1, 0), (1.0, 1))
    whole = last(train(stack, SOURCE, SETTINGS)).checkpoint()
    saved = next(s.checkpoint() for s in train(stack, SOURCE, SETTINGS) if s.step == stop)
    assert_same(whole, last(train(stack, SOURCE, SETTINGS, resume=saved)).checkpoint())


def test_a_member_trains_the_same_in_any_stack():
    stack = members((0.1, 0), (1.0, 1), (1.0, 0))
    together = last(train(stack, SOURCE, SETTINGS)).checkpoint()
    for i, member in enumerate(stack):
        assert_same(last(train([member], SOURCE, SETTINGS)).checkpoint(), select_members(together, [i]))


def test_members_of_a_checkpoint_continue_alone():
    stack = members((0.1, 0), (1.0, 1), (0.3, 2))
    whole = last(train(stack, SOURCE, SETTINGS)).checkpoint()
    saved = next(s.checkpoint() for s in train(stack, SOURCE, SETTINGS) if s.step == 30)
    alone = last(train([stack[2], stack[0]], SOURCE, SETTINGS, resume=select_members(saved, [2, 0])))
    assert_same(alone.checkpoint(), select_members(whole, [2, 0]))


def test_stacks_side_by_side_train_as_they_do_alone():
    wide = [(Relu(n_latents=32, l1=0.3), 4)]
    both = last(train_side_by_side([members((0.1, 0), (1.0, 1)), wide], SOURCE, SETTINGS))
    assert_same(both[0].checkpoint(), last(train(members((0.1, 0), (1.0, 1)), SOURCE, SETTINGS)).checkpoint())
    assert_same(both[1].checkpoint(), last(train(wide, SOURCE, SETTINGS)).checkpoint())


def test_the_initial_norm_of_encoder_rows():
    settings = TrainConfig(**{**SETTINGS.model_dump(), "steps": 1, "log_every": 1, "lr": 1e-9, "encoder_norm": 0.1})
    state = last(train(members((0.1, 0)), SOURCE, settings))
    torch.testing.assert_close(state.stack.W_enc.norm(dim=-1), torch.full((1, 16), 0.1), rtol=1e-4, atol=0)


def test_seeds_matter():
    d, e = last(train(members((0.1, 0), (0.1, 1)), SOURCE, SETTINGS)).dictionaries()
    assert not torch.equal(d.W_dec, e.W_dec)


def test_unit_rows_stay_unit_and_weighted_rows_do_not():
    unit = last(train(members((0.5, 0)), SOURCE, SETTINGS))
    torch.testing.assert_close(unit.stack.W_dec.norm(dim=-1), torch.ones(1, 16))
    free = last(train(members((0.5, 0), decoder="weighted"), SOURCE, SETTINGS))
    assert float((free.stack.W_dec.norm(dim=-1) - 1).abs().max()) > 1e-3


def test_the_loss_falls_and_more_penalty_means_fewer_latents():
    settings = TrainConfig(steps=400, batch_size=64, log_every=100, resample_every=0, penalty_warm_up=0)
    states = [s.records() for s in train(members((0.05, 0), (2.0, 0)), SOURCE, settings)]
    assert states[-1][0]["loss"] < 0.7 * states[0][0]["loss"]
    assert states[-1][1]["l0"] < 0.7 * states[-1][0]["l0"]


def test_without_a_decoder_bias_it_stays_zero():
    state = last(train([(Relu(n_latents=16, l1=0.1, decoder_bias=False), 0)], SOURCE, SETTINGS))
    assert float(state.stack.b_dec.abs().max()) == 0


def test_resampling_revives_dead_latents_and_resets_their_moments():
    stack = Stack.initialise([0, 1], 6, torch.zeros(8), "cpu")
    moments = {name: [torch.ones_like(p), torch.ones_like(p)] for name, p in stack.parameters().items()}
    dead = torch.zeros(2, 6, dtype=torch.bool)
    dead[0, [1, 4]] = True
    x = torch.randn(50, 8)
    errors = torch.zeros(2, 50)
    errors[0, 7] = 1.0  # the only row with a loss is drawn with certainty
    before = {name: p.clone() for name, p in stack.parameters().items()}
    resample_(stack, moments, dead, Pair(x, x), errors, seeds=[0, 1], step=3)

    unit = x[7] / x[7].norm()
    living = before["W_enc"][0, [0, 2, 3, 5]].norm(dim=-1).mean()
    for row in (1, 4):
        torch.testing.assert_close(stack.W_dec[0, row], unit)
        torch.testing.assert_close(stack.W_enc[0, row], 0.2 * living * unit)
    for name in ("W_enc", "W_dec", "b_enc"):
        for moment in moments[name]:
            assert float(moment[0, [1, 4]].abs().max()) == 0
            assert float(moment[0, [0, 2, 3, 5]].min()) == 1
        assert torch.equal(getattr(stack, name)[1], before[name][1])  # a member without dead latents is untouched
        assert float(moments[name][0][1].min()) == 1
    assert float(moments["b_dec"][0].min()) == 1


@pytest.mark.parametrize("every", [0, 20])
def test_training_revives_what_died(every: int):
    """Five latents are killed by their bias; only resampling can bring them back."""
    settings = TrainConfig(**{**SETTINGS.model_dump(), "resample_every": every, "resample_until": 1})
    saved = next(s.checkpoint() for s in train(members((0.1, 0)), SOURCE, settings) if s.step == 10)
    saved["parameter.b_enc"][0, :5] = -1000
    state = last(train(members((0.1, 0)), SOURCE, settings, resume=saved))
    assert bool((state.steps_since_fired[0, :5] >= settings.dead_after).all()) == (every == 0)
    assert state.records()[0]["dead"] == (5 / 16 if every == 0 else 0)


def test_schedules():
    assert [trapezoid(s, 10, 0.2, 0.5) for s in (0, 1, 4, 5, 7, 9)] == [0.5, 1.0, 1.0, 1.0, 0.6, 0.2]
    assert trapezoid(9, 10, 0.0, 0.0) == 1.0
