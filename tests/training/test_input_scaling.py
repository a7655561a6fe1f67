"""Input scaling and its inverse, initial decoder rows, and the moving average of parameters."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import sae
from sae.dictionaries.relu import Config as Relu
from sae.registry import UserError
from sae.source import TensorSource
from sae.sources.independent import Config as Independent
from sae.training.config import TrainConfig
from sae.training.input_scaling import InputScaling, InputStatistics
from sae.training.loop import train
from sae.training.prefetch import Pair
from sae.training.stack import first_directions
from tests.transcoding import Mlp

SOURCE = Independent(n_features=24, d_in=12, probability=0.1).build()
HOW = {"steps": 300, "batch_size": 64, "lr": 3e-3, "n_scale": 2048}


def measure(scaling: str = "sqrt_d", median: bool = False, source: Any = SOURCE) -> InputStatistics:
    return InputStatistics.measure(source, 2048, 256, scaling, median)  # pyright: ignore[reportArgumentType]


def test_scaled_rows_have_the_norm_of_a_unit_per_coordinate():
    x, y = measure().scaling(Pair(*2 * [SOURCE.batch(99, 20_000).acts]))
    assert y is x and float(x.norm(dim=-1).mean()) == pytest.approx(12**0.5, rel=0.03)


def test_whitened_rows_have_the_identity_for_a_covariance():
    loud = SOURCE.batch(0, 30_000).acts * torch.linspace(1, 4, 12)
    scaling = measure("whiten", source=TensorSource(loud)).scaling
    x, _ = scaling(Pair(loud, loud))
    torch.testing.assert_close(torch.cov(x.T), torch.eye(12), rtol=0, atol=0.15)


@pytest.mark.parametrize("scaling", ["none", "sqrt_d", "whiten"])
def test_a_dictionary_reconstructs_in_raw_units_what_it_did_in_scaled_ones(scaling: str):
    settings = TrainConfig(**{**HOW, "input_scale": scaling, "log_every": 300})  # pyright: ignore[reportArgumentType]
    *_, state = train([(Relu(n_latents=32, l1=0.2), 0)], SOURCE, settings)
    [d] = state.dictionaries()
    raw = SOURCE.batch(7, 500, "test").acts
    x, _ = state.scaling(Pair(raw, raw))
    z = torch.relu((x - state.stack.b_dec[0]) @ state.stack.W_enc[0].T + state.stack.b_enc[0])
    there = z @ state.stack.W_dec[0] + state.stack.b_dec[0]
    back, _ = state.scaling(Pair(*2 * [d.decode(d.encode(raw))]))
    torch.testing.assert_close(back, there, rtol=1e-3, atol=1e-3)
    assert torch.equal(d.encode(raw) > 0, z > 0)


@pytest.mark.usefixtures("shapes_unchecked")
@pytest.mark.parametrize("kind", ["relu", "gated", "batchtopk"])
def test_a_transcoder_is_better_than_any_linear_map(kind: str):
    """The targets are an MLP of the rows; fvu is against their variance."""
    source = Mlp()
    aim = {"k": 4} if kind in ("batchtopk", "matryoshka") else {"l1": 0.2}
    [d] = sae.fit(source, kind, n_latents=64, **aim, **{**HOW, "steps": 500, "lr": 1e-2})
    batch = source.batch(0, 5000, "test")
    x, y = batch.acts, batch.wanted
    ones = torch.cat([x, torch.ones(len(x), 1)], 1)
    linear = ones @ torch.linalg.lstsq(ones, y).solution
    fvu = {
        n: float((y - y_hat).square().sum() / (y - y.mean(0)).square().sum())
        for n, y_hat in (("linear", linear), ("sparse", d.decode(d.encode(x))))
    }
    assert fvu["sparse"] < 0.7 * fvu["linear"]


def test_a_transcoder_resumes_from_its_checkpoint():
    settings = TrainConfig(steps=30, batch_size=32, log_every=10, n_scale=512)
    members = [(Relu(n_latents=32, l1=0.2), 0)]
    first, _, last = train(members, Mlp(), settings)
    saved = next(train(members, Mlp(), settings)).checkpoint()
    *_, again = train(members, Mlp(), settings, resume=saved)
    assert first.stack.centre is not None and "parameter.centre" in saved
    assert all(torch.equal(t, again.checkpoint()[name]) for name, t in last.checkpoint().items())


def test_whitening_and_matching_pursuit_are_for_autoencoders():
    with pytest.raises(UserError, match=r"train\.input_scale.*autoencoders"):
        sae.fit(Mlp(), n_latents=8, l1=0.1, **{**HOW, "input_scale": "whiten"})
    with pytest.raises(UserError, match=r"matching_pursuit.*autoencoders"):
        sae.fit(Mlp(), "matching_pursuit", n_latents=8, k=2, **HOW)


def test_initial_decoder_rows():
    rows = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    centre = rows.mean(0)
    orthogonal = first_directions("orthogonal", 0, 9, centre, None)
    torch.testing.assert_close(orthogonal[:6] @ orthogonal[:6].T, torch.eye(6), rtol=0, atol=1e-5)
    of_data = first_directions("data", 0, 40, centre, rows)
    cosine = of_data @ torch.nn.functional.normalize(rows - centre, dim=-1).T
    assert bool((cosine.max(1).values > 0.9999).all()) and len(set(cosine.argmax(1).tolist())) == 40
    for initial in (orthogonal, of_data, first_directions("random", 0, 9, centre, None)):
        torch.testing.assert_close(initial.norm(dim=-1), torch.ones(len(initial)))
    assert not torch.equal(of_data, first_directions("data", 1, 40, centre, rows))


def test_the_average_follows_the_parameters():
    base = {"steps": 60, "batch_size": 32, "lr": 1e-2, "n_scale": 512, "log_every": 1, "resample_every": 0}
    member = [(Relu(n_latents=16, l1=0.1), 0)]
    keep, expected = 0.8, torch.zeros(0)
    for state in train(member, SOURCE, TrainConfig(**base, average=keep)):
        W = state.stack.W_dec
        t = min(keep, (1 + state.step) / (10 + state.step))
        expected = t * expected + (1 - t) * W if state.step > 1 else t * start(member) + (1 - t) * W
        torch.testing.assert_close(state.average["W_dec"], expected)
    *_, plain = train(member, SOURCE, TrainConfig(**base))
    assert torch.equal(plain.stack.W_dec, state.stack.W_dec), "training itself does not change"
    [d], [e] = state.dictionaries(), plain.dictionaries()
    assert not torch.equal(d.W_dec, e.W_dec)


def start(member: Any) -> torch.Tensor:
    return first_directions("random", member[0][1], 16, torch.zeros(12), None)[None]


def test_the_scaling_survives_a_checkpoint():
    scaling = InputScaling(2.5, 0.5, torch.eye(3))
    again = InputScaling.of(scaling.tensors())
    assert (again.scale, again.target_scale) == (2.5, 0.5) and again.whitening is not None
    assert InputScaling.of(InputScaling().tensors()).whitening is None
