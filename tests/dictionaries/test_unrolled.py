"""The step of iterative shrinkage in an encoder: its limits, its training, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sae.dictionaries.batchtopk import BatchTopK
from sae.dictionaries.unrolled import Config, Unrolled
from sae.registry import UserError, config_class
from sae.sources.independent import Config as Independent
from sae.sources.tensor import TensorSource
from sae.training import frequency_order
from sae.training.config import TrainConfig
from sae.training.loop import divide, train
from sae.training.state import State, has_latents
from tests.threads_as_processes import run_as_processes

SOURCE = Independent(n_features=24, d_in=12, probability=0.1).build()
LEVELS = (8, 16, 32)


def states(kind: str = "unrolled", steps: int = 60, resume: Any = None, **settings: Any) -> list[State]:
    training = TrainConfig(steps=steps, batch_size=64, lr=1e-2, log_every=steps // 2, n_scale=1024, dead_after=20)
    config = config_class("dictionaries", kind)(n_latents=32, k=3, **settings)
    kept = list[State]()
    for state in train([(config, 0)], SOURCE, training, resume=resume):
        kept.append(state if state.step == steps else state.checkpoint())  # pyright: ignore
    return kept


@pytest.mark.parametrize("levels", [pytest.param((), marks=pytest.mark.slow), LEVELS])
def test_a_step_of_no_size_is_batchtopk_or_matryoshka(levels: tuple[int, ...]):
    other = states("matryoshka", levels=levels) if levels else states("batchtopk")
    small, large = (states(levels=levels, step=size)[-1].stack for size in (1e-9, 0.3))
    for name in ("W_enc", "W_dec", "b_enc", "b_dec"):
        torch.testing.assert_close(getattr(small, name), getattr(other[-1].stack, name), rtol=1e-3, atol=1e-5)
    assert float((large.W_dec - small.W_dec).abs().max()) > 0.05


def test_without_a_step_it_encodes_as_one_layer():
    g = torch.Generator().manual_seed(0)
    parts = [torch.randn(*shape, generator=g) for shape in ((5, 9), (9, 5), (9,), (5,))]
    x, threshold = torch.randn(40, 5, generator=g), torch.rand(9, generator=g)
    d = Unrolled(*parts, threshold=threshold, first_threshold=threshold, step=0.0)
    assert torch.equal(d.encode(x), BatchTopK(*parts, threshold=threshold).encode(x))
    assert d.multiply_adds() == 3 * 5 * 9


def test_latents_compete():
    """Of two latents in the same direction at an angle to the input, the step halves what both take together."""
    W = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    d = Unrolled(W.T.contiguous(), W, torch.zeros(2), torch.zeros(2), torch.zeros(2), torch.zeros(2), step=0.5)
    assert torch.equal(d.encode(torch.tensor([[1.0, 0.0]])), torch.tensor([[0.5, 0.5]]))


def test_the_trained_dictionary_does_what_training_did():
    """The codes of the dictionary, in raw units, reconstruct as the last step of training does with its averages."""
    state = states(steps=120, levels=LEVELS, detach=True, k_start=6, k_anneal=0.5)[-1]
    [d], x = state.dictionaries(), SOURCE.batch(3, 2000, "test").acts
    z = d.encode(x)
    assert float((z > 0).sum(-1).double().mean()) == pytest.approx(3, rel=0.2)
    assert state.fit_cost.multiply_adds == 11 * 120 * 64 * 32 * 12
    scaled, scale, member = x * state.scaling.scale, state.scaling.scale, state.stack
    pre = (scaled - member.b_dec[0]) @ member.W_enc[0].T + member.b_enc[0]
    first = torch.where(pre > member.first_threshold, pre, 0)  # pyright: ignore
    pre = pre - 0.3 * (first @ member.W_dec[0] + member.b_dec[0] - scaled) @ member.W_dec[0].T
    expected = torch.where(pre > member.batch_threshold, pre, 0) / scale
    torch.testing.assert_close(z, expected, rtol=1e-3, atol=1e-4)


def test_it_resumes_on_the_same_bytes():
    half, end = states(levels=LEVELS)
    resumed = states(levels=LEVELS, resume=half)[-1]
    for name, tensor in end.checkpoint().items():
        assert torch.equal(tensor, resumed.checkpoint()[name]), name
    assert "parameter.first_threshold" in end.checkpoint()


def test_what_has_no_meaning_is_refused():
    config, x = Config(n_latents=8, k=2), torch.randn(64, 4)
    with pytest.raises(UserError, match='kind = "unrolled": works for autoencoders only'):
        next(train([(config, 0)], TensorSource(x, targets=x), TrainConfig(steps=1)))
    with pytest.raises(UserError, match=r'train\.input_scale = "whiten": kind = "unrolled"'):
        next(train([(config, 0)], SOURCE, TrainConfig(steps=1, batch_size=8, n_scale=64, input_scale="whiten")))
    with pytest.raises(ValueError, match="widths must ascend and end at n_latents = 8"):
        Config(n_latents=8, k=2, levels=(4, 2))
    with pytest.raises(ValueError, match="detach = true: has no effect without levels"):
        Config(n_latents=8, k=2, detach=True)


def test_sorting_latents_changes_their_places_alone():
    """A sorted state goes on as the one that was not, but for the order, where no level depends on it."""
    config = Config(n_latents=32, k=3)
    training = TrainConfig(steps=80, batch_size=64, lr=1e-2, log_every=40, n_scale=512)
    half, end = (state.checkpoint() for state in train([(config, 0)], SOURCE, training))
    order = torch.randperm(32, generator=torch.Generator().manual_seed(0))
    moved = {name: t[:, order] if has_latents(name) else t for name, t in half.items()}
    *_, other = train([(config, 0)], SOURCE, training, resume=moved)
    for name, tensor in other.checkpoint().items():
        expected = end[name][:, order] if has_latents(name) else end[name]
        torch.testing.assert_close(tensor, expected, rtol=1e-3, atol=1e-4, msg=name)


def test_latents_are_sorted_by_frequency_with_all_that_is_theirs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(frequency_order, "EVERY", 20)
    config = Config(n_latents=32, k=3, levels=LEVELS, order="frequency")
    training = TrainConfig(steps=60, batch_size=64, lr=1e-2, log_every=30, n_scale=512, average=0.9, keep_near=0.1)
    first, last = kept(config, training)
    assert bool((last["frequency"].diff() <= 0).all()) and float(last["frequency"].max()) > 0
    # Each latent is next to its own initial row, which it cannot leave far behind.
    cosine = (last["parameter.W_dec"] * last["parameter.began"]).sum(-1)
    assert float(cosine.min()) > 0.1 - 1e-5
    assert not torch.equal(last["parameter.began"], kept(Config(n_latents=32, k=3), training)[1]["parameter.began"])
    resumed = kept(config, training, first)[0]
    for name, tensor in last.items():
        assert torch.equal(resumed[name], tensor), name


def kept(config: Config, training: TrainConfig, resume: Any = None) -> list[dict[str, torch.Tensor]]:
    return [state.checkpoint() for state in train([(config, 0)], SOURCE, training, resume=resume)]


def test_what_moves_with_a_latent_is_all_that_it_has():
    """Every tensor of a checkpoint with an axis of latents is sorted, by the same order."""
    config = Config(n_latents=32, k=3, levels=LEVELS, order="frequency")
    training = TrainConfig(steps=7, batch_size=64, log_every=7, n_scale=512, average=0.9, keep_near=0.1)
    [state] = train([(config, 0)], SOURCE, training)
    before = state.checkpoint()
    state.step, rate = frequency_order.EVERY, torch.rand(1, 32, generator=torch.Generator().manual_seed(0))
    state.frequency.copy_(rate)  # pyright: ignore
    assert frequency_order.follow_frequency_(state, rate)
    order = rate[0].argsort(descending=True)
    for name, tensor in state.checkpoint().items():
        if name not in ("step", "frequency"):
            assert torch.equal(tensor, before[name][:, order] if has_latents(name) else before[name]), name


def test_sorted_latents_are_not_divided():
    members = [(Config(n_latents=32, k=3, levels=LEVELS, order="frequency"), 0)]
    with pytest.raises(UserError, match=r'order = "frequency": the latents of one dictionary are not divided over 2'):
        run_as_processes(2, lambda processes: divide([members], processes))
    with pytest.raises(ValueError, match=r'order = "frequency": has no effect without levels'):
        Config(n_latents=32, k=3, order="frequency")
