"""Decoder rows that stay near their initial directions: the soft-frozen control."""

from __future__ import annotations

import pytest
import torch

import sae
from pipelines.config.config import parse
from pipelines.plan import plan
from sae.dictionaries.topk import Config as TopK
from sae.numerics.seeds import generator
from sae.sources.independent import Config as Independent
from sae.training.config import TrainConfig
from sae.training.engine import Engine
from sae.training.kernels import Adam
from sae.training.loop import train
from sae.training.stack import first_directions, keep_within_cosine_
from tests.stacks import ARCHITECTURES, random_rows, random_stack, zero_moments

SOURCE = Independent(n_features=40, d_in=20, probability=0.05).build()
FAST = {"steps": 90, "batch_size": 64, "lr": 3e-2, "log_every": 90, "resample_every": 30, "dead_after": 15}
KINDS = {"relu": {"l1": 0.5}, "topk": {"k": 3}, "gated": {"l1": 0.5}, "matching_pursuit": {"k": 2}}


def unit(n: int, d: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(n, d, generator=generator("unit", n)))


def initial_rows(n_latents: int = 48) -> torch.Tensor:
    return first_directions("random", 0, n_latents, torch.zeros(20), None)


def test_rows_inside_keep_their_bits_and_others_move_to_the_border_on_the_shortest_way():
    axis, away = unit(50, 6), unit(51, 6)[:50]
    w = 3 * torch.cat([axis[:20] + 0.3 * away[:20], away[20:]])
    before = w.clone()
    keep_within_cosine_(w, axis, 0.8)
    cosine, norm = (torch.nn.functional.normalize(w) * axis).sum(-1), before.norm(dim=-1)
    was = (before * axis).sum(-1) / norm
    assert torch.equal(w[was >= 0.8], before[was >= 0.8])
    torch.testing.assert_close(cosine[was < 0.8], torch.full_like(cosine[was < 0.8], 0.8))
    torch.testing.assert_close(w.norm(dim=-1), norm)
    # It stays in the plane of the two, on the side where the row was.
    plane = torch.stack([axis, before / norm[:, None], w / norm[:, None]], 1)
    torch.testing.assert_close(torch.linalg.det(plane @ plane.mT), torch.zeros(50), atol=1e-5, rtol=0)
    assert bool((((w - cosine[:, None] * norm[:, None] * axis) * before).sum(-1) >= -1e-5).all())


def test_at_one_only_the_length_is_free_and_the_opposite_goes_back():
    axis = unit(10, 4)
    w = torch.cat([2 * unit(12, 4)[:9], -3 * axis[9:]])
    norm = w.norm(dim=-1, keepdim=True)
    keep_within_cosine_(w, axis, 1.0)
    torch.testing.assert_close(w, norm * axis)
    w = -axis
    keep_within_cosine_(w, axis, 0.8)
    torch.testing.assert_close(w, axis)


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("name", ["unit", "weighted", "topk", "gated", "matryoshka"])
@pytest.mark.parametrize("least", [0.9, 1.0])
def test_every_path_of_the_engine_keeps_rows_in_their_cones(name: str, sparse: bool, least: float):
    stack = random_stack(2, 70, 5, ARCHITECTURES[name])
    stack.initial_W_dec = torch.nn.functional.normalize(stack.W_dec, dim=-1)
    free = random_stack(2, 70, 5, ARCHITECTURES[name])
    l1, x = torch.tensor([0.3, 0.1]).double(), random_rows(300, 5)
    for trained in (stack, free):
        paths = torch.full((2,), sparse)
        engine = Engine(trained, zero_moments(trained), paths, ARCHITECTURES[name], 300, keep_near=least)
        for t in range(2, 9):  # after the first step, which would choose the path again
            engine.step(x, t, Adam.at(t, 0.1, 0.9, 0.999), l1)
        assert bool((paths == sparse).all())
    near, far = (
        (torch.nn.functional.normalize(trained.W_dec, dim=-1) * stack.initial_W_dec).sum(-1)
        for trained in (stack, free)
    )
    assert float(near.min()) > least - 1e-6 and float(far.min()) < least - 0.05
    assert not torch.equal(stack.W_enc, random_stack(2, 70, 5, ARCHITECTURES[name]).W_enc), "the encoder learns"


@pytest.mark.usefixtures("shapes_unchecked")
@pytest.mark.parametrize("kind", KINDS)
def test_every_row_of_a_trained_dictionary_is_near_its_initial_direction(kind: str):
    """Resampling, which moves rows far, included."""
    axis = initial_rows()
    free, soft, frozen = (
        (sae.fit(SOURCE, kind, n_latents=48, keep_near=c, **KINDS[kind], **FAST)[0].W_dec * axis).sum(-1)
        for c in (0.0, 0.8, 1.0)
    )
    assert float(free.min()) < 0.7, "the constraint has something to do"
    assert float(soft.min()) > 0.8 - 1e-5 and float(soft.min()) < 0.81
    torch.testing.assert_close(frozen, torch.ones(48))


@pytest.mark.usefixtures("shapes_unchecked")
def test_the_average_of_parameters_stays_in_the_cone():
    (d,) = sae.fit(SOURCE, "relu", n_latents=48, l1=0.5, keep_near=0.8, average=0.9, **FAST)
    assert float((d.W_dec * initial_rows()).sum(-1).min()) > 0.8 - 1e-5


@pytest.mark.usefixtures("shapes_unchecked")
def test_a_resumed_run_remembers_the_initial_rows():
    members, config = [(TopK(n_latents=48, k=3), 0)], TrainConfig(**{**FAST, "log_every": 30}, keep_near=0.8)
    states = [(s.step, s.checkpoint(), s.dictionaries()[0]) for s in train(members, SOURCE, config)]
    assert [step for step, *_ in states] == [30, 60, 90]
    *_, last = train(members, SOURCE, config, resume=states[0][1])
    assert torch.equal(last.dictionaries()[0].W_dec, states[-1][2].W_dec)
    assert "parameter.began" in states[0][1]


def test_runs_without_the_constraint_keep_their_keys():
    assert "keep_near" not in TrainConfig().model_dump() and TrainConfig(keep_near=0.8).model_dump()["keep_near"] == 0.8
    table = {
        "name": "near",
        "source": {"kind": "independent", "n_features": 8, "d_in": 4, "probability": 0.1},
        "dictionary": {"kind": "topk", "n_latents": 8, "k": 2},
    }
    plain, written, swept = (
        [s for s in plan(parse({**table, "train": t})) if s.stage == "train"]
        for t in ({}, {"keep_near": 0}, {"keep_near": [0, 0.8, 1]})
    )
    assert plain[0].key == written[0].key == swept[0].key and len({s.key for s in swept}) == 3
    assert [s.title.partition(" n_latents")[0] for s in swept] == ["topk", "topk keep_near=0.8", "topk keep_near=1.0"]
    with pytest.raises(ValueError, match="keep_near"):
        parse({**table, "train": {"keep_near": 1.2}})
