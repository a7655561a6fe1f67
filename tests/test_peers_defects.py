"""Defects that other libraries had or have, each with a test that would catch it here.

The libraries are named so that a reader can look the defects up; only this library is tested.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sae
from sae.registry import config_class
from sae.sources.independent import Config as Independent
from sae.training.config import TrainConfig
from sae.training.input_scaling import geometric_median
from sae.training.kernels import Adam
from sae.training.loop import train
from sae.training.stack import Stack
from sae.training.state import State
from tests.stacks import ARCHITECTURES, random_rows, random_stack
from tests.training.test_engine import engine_of

SOURCE = Independent(n_features=24, d_in=12, probability=0.1).build()
SHORT = {"steps": 40, "batch_size": 64, "lr": 1e-2, "n_scale": 1024, "log_every": 10, "dead_after": 10}


def states(
    kind: str, settings: dict[str, Any], resume: dict[str, Tensor] | None = None, **training: Any
) -> list[State]:
    config = config_class("dictionaries", kind)(n_latents=32, **settings)
    return list(train([(config, 0)], SOURCE, TrainConfig(**{**SHORT, **training}), resume=resume))


def one_step(name: str, stack: Stack, sparse: bool, **inputs: Any) -> Any:
    engine = engine_of(stack, name, 64, sparse)
    terms = engine.step(
        random_rows(64, stack.W_dec.shape[2]),
        2,
        Adam.at(1, 1e-3, 0.9, 0.999),
        torch.full_like(stack.batch_threshold, 0.3),
        **inputs,
    )
    return engine, terms


@pytest.mark.parametrize("settings", [{"l1": 0.1}, {"l1": 0.1, "penalty": "lp", "p_anneal": 0.8}], ids=["l1", "lp"])
def test_resampling_reaches_the_parameters(settings: dict[str, Any]):
    """dictionary_learning's p-annealing trainer writes new rows into an indexed copy: no parameter changes."""
    resampling = {"resample_every": 20, "resample_until": 1.0}
    before = next(s.checkpoint() for s in train_from(settings, **resampling) if s.step == 10)
    before["parameter.b_enc"][0, :5] = -1000
    after = states("relu", settings, before, **resampling)[-1].checkpoint()
    assert float(after["parameter.b_enc"][0, :5].min()) > -1000
    changed = (after["parameter.W_dec"][0, :5] - before["parameter.W_dec"][0, :5]).norm(dim=-1)
    assert float(changed.min()) > 0.1


def train_from(settings: dict[str, Any], **training: Any) -> Any:
    config = config_class("dictionaries", "relu")(n_latents=32, **settings)
    return train([(config, 0)], SOURCE, TrainConfig(**{**SHORT, **training}))


@pytest.mark.parametrize("kind", ["relu", "gated", "jumprelu", "topk", "batchtopk", "matryoshka", "matching_pursuit"])
def test_the_input_scale_is_saved_with_the_weights(kind: str, tmp_path: Path):
    """dictionary_learning sets ``trainer.config["norm_factor"]`` on a copy, where it is lost."""
    aim = {"k": 3} if "topk" in kind or kind in ("matryoshka", "matching_pursuit") else {"l0": 3}
    x = SOURCE.batch(0, 4000).acts
    codes = []
    for factor in (1, 250.0):
        [d] = sae.fit(x * factor, kind, n_latents=32, **aim, **SHORT)
        sae.save(d, tmp_path / str(factor))
        codes.append(sae.load(tmp_path / str(factor)).encode(x * factor))
    torch.testing.assert_close(codes[1], codes[0] * 250, rtol=0.02, atol=0.5)
    assert float(codes[0].max()) > 0


@pytest.mark.parametrize("input_scale", ["none", "sqrt_d", "whiten"])
def test_checkpoints_do_not_depend_on_normalisation(input_scale: str):
    """dictionary_learning's ``backup_steps`` fails where activations are not normalised."""
    whole = states("relu", {"l1": 0.1}, input_scale=input_scale)
    saved = whole[1].checkpoint()
    again = states("relu", {"l1": 0.1}, saved, input_scale=input_scale)[-1]
    assert all(torch.equal(t, again.checkpoint()[name]) for name, t in whole[-1].checkpoint().items())


@pytest.mark.parametrize("kind", ["relu", "jumprelu", "gated", "batchtopk"])
def test_the_step_count_of_adam_is_stored(kind: str):
    """sparse_coding does not store it, so that every step is corrected like the first: about a third of the rate."""
    aim = {"k": 3} if kind == "batchtopk" else {"l0": 3}
    at = {s.step: s.checkpoint() for s in train_of(kind, aim)}
    resumed = states(kind, aim, at[20])[-1].checkpoint()
    assert all(torch.equal(t, resumed[name]) for name, t in at[40].items())
    forgotten = {**at[20], "step": torch.tensor(0)}
    wrong = states(kind, aim, forgotten)[1].checkpoint()  # as many steps, counted from the first
    assert not torch.equal(wrong["parameter.W_dec"], at[40]["parameter.W_dec"])


def train_of(kind: str, aim: dict[str, Any]) -> Any:
    config = config_class("dictionaries", kind)(n_latents=32, **aim)
    return train([(config, 0)], SOURCE, TrainConfig(**SHORT))


@pytest.mark.usefixtures("shapes_unchecked")
def test_k_is_per_sample_and_the_threshold_is_saved(tmp_path: Path):
    """overcomplete's BatchTopK takes `top_k` for the whole batch, and its state has no threshold."""
    [d] = sae.fit(SOURCE, "batchtopk", n_latents=32, k=4, **{**SHORT, "steps": 600})
    sae.save(d, tmp_path)
    x = SOURCE.batch(0, 3000, "test").acts
    codes = sae.load(tmp_path).encode(x)
    assert torch.equal(codes, d.encode(x))
    assert float((codes > 0).sum(-1).double().mean()) == pytest.approx(4, rel=0.1)


@pytest.mark.parametrize("sparse", [False, True])
def test_decoder_rows_have_norm_one_after_the_step(sparse: bool):
    """OpenAI's trainer normalises before the step, so that what is saved is not normalised."""
    engine, _ = one_step("topk", random_stack(1, 70, 6, ARCHITECTURES["topk"]), sparse)
    torch.testing.assert_close(engine.stack.W_dec.norm(dim=-1), torch.ones(1, 70, dtype=torch.float64))


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("name", ["topk", "batchtopk"])
def test_a_selected_zero_has_not_fired(name: str, sparse: bool):
    """dictionary_learning's TopK counts every selected latent, positive or not: none is ever dead."""
    stack = random_stack(1, 70, 6, ARCHITECTURES[name])
    stack.b_enc[0, 1:] = -1000
    _, terms = one_step(name, stack, sparse)
    assert int(terms.fired.sum()) == 1 and float(terms.l0) <= 1


def test_the_geometric_median_is_not_the_mean():
    """Llamascopium's ``geometric_median`` takes the mean."""
    x = torch.cat([torch.randn(200, 3, generator=torch.Generator().manual_seed(0)), torch.full((20, 3), 100.0)])
    median = geometric_median(x)
    assert float(x.mean(0).norm()) > 10 and float(median.norm()) < 1
    apart = (x - median).double()
    gradient = (apart / apart.norm(dim=-1, keepdim=True)).mean(0)
    assert float(gradient.norm()) < 1e-3, "the sum of unit vectors to the rows vanishes at the median"


@pytest.mark.parametrize("sparse", [False, True])
def test_the_window_includes_pre_activations_below_the_threshold(sparse: bool):
    """dictionary_learning's JumpReLU applies the step to thresholded codes: below it there is no gradient."""
    architecture = ARCHITECTURES["jumprelu"]
    stack = random_stack(1, 70, 6, architecture)
    pre = (random_rows(64, 6) - stack.b_dec[0]) @ stack.W_enc[0].T + stack.b_enc[0]
    highest = pre.max(0).values
    # All pre-activations are below the threshold, some of them within the window of 1.1.
    stack.latent_parameters["threshold"][0] = (highest + 0.1).clamp_min(0.2)
    engine, terms = one_step("jumprelu", stack, sparse)
    assert float(terms.l0) == 0
    inside = highest > 0.2
    moved = engine.m.latent_parameters["threshold"][0]
    assert bool(inside.any()) and bool((moved[inside] != 0).all())


@pytest.mark.parametrize("sparse", [False, True])
def test_the_gates_auxiliary_loss_does_not_train_the_decoder(sparse: bool):
    """SAELens' gated auxiliary loss does not detach the decoder (its issue 539)."""
    stack = random_stack(1, 70, 6, ARCHITECTURES["gated"])
    stack.latent_parameters["shift"].fill_(-1000)  # magnitudes are zero: only the auxiliary loss is left
    engine, terms = one_step("gated", stack, sparse)
    assert float(terms.l0) == 0 and float(terms.auxiliary) > 0
    assert float(engine.m.W_dec.abs().max()) == 0 and float(engine.m.W_enc.abs().max()) > 0


@pytest.mark.parametrize("sparse", [False, True])
def test_the_decoder_bias_is_not_counted_twice_for_dead_latents(sparse: bool):
    """sparsify added b_dec to the dead latents' reconstruction of the residual (its issue 132)."""
    auxiliary = []
    for shift in (0.0, 100.0):
        stack = random_stack(1, 70, 6, ARCHITECTURES["topk-aux"])
        stack.b_dec += shift
        engine = engine_of(stack, "topk-aux", 64, sparse)
        dead = torch.arange(70)[None] < 10
        weight = torch.zeros_like(stack.batch_threshold)
        terms = engine.step(random_rows(64, 6) + shift, 2, Adam.at(1, 1e-3, 0.9, 0.999), weight, dead=dead)
        auxiliary.append(float(terms.auxiliary))
    assert auxiliary[0] == pytest.approx(auxiliary[1], rel=1e-9) and auxiliary[0] > 0


@pytest.mark.usefixtures("shapes_unchecked")
def test_thresholds_learn_at_the_rate_of_everything_else():
    """A threshold trained as a logarithm hardly moves under Adam (SAELens' issues 494 and 718): L0 never fell."""
    ends = states("jumprelu", {"l0_coefficient": 3.0}, **{"steps": 400, "log_every": 200})
    first, last = (float(s.logged_values["l0"]) for s in (ends[0], ends[-1]))  # pyright: ignore
    assert last < 0.7 * first or last < 4
    assert float(ends[-1].stack.latent_parameters["threshold"].mean()) > 0.6  # from .3


def test_seeds_are_used():
    """SAELens' runner ignores its seed."""
    one, two, again = (
        sae.fit(SOURCE, "batchtopk", n_latents=32, k=3, seeds=[seed], **SHORT)[0].W_dec for seed in (0, 1, 0)
    )
    assert torch.equal(one, again) and not torch.equal(one, two)
