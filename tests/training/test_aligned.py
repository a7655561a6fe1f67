"""Encoder rows whose inner product with their decoder row stays one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import sae
from sae.dictionaries.matching_pursuit import Config as MatchingPursuit
from sae.dictionaries.topk import Config as TopK
from sae.numerics.processes import ALONE, Processes
from sae.registry import UserError
from sae.sources.independent import Config as Independent
from sae.training.config import TrainConfig
from sae.training.engine import Engine
from sae.training.kernels import Adam
from sae.training.loop import divide, train, train_side_by_side
from sae.training.stack import Stack
from tests.stacks import ARCHITECTURES, DENSE_ONLY, random_dead, random_rows, random_stack, zero_moments
from tests.threads_as_processes import run_as_processes

SOURCE = Independent(n_features=40, d_in=20, probability=0.05).build()
FAST = {"steps": 40, "batch_size": 64, "lr": 1e-2, "log_every": 20, "resample_every": 20, "dead_after": 10}
KINDS = {"relu": {"l1": 0.5}, "jumprelu": {"l0": 3}, "gated": {"l1": 0.5}, "matryoshka": {"k": 3, "levels": (16, 48)}}


def alignment(stack: Stack) -> Tensor:
    return (stack.W_enc * stack.W_dec).sum(-1)


def test_rows_move_along_the_decoder_and_no_further():
    stack = random_stack(2, 9, 5, ARCHITECTURES["weighted"])
    before = stack.W_enc.clone()
    stack.align_()
    torch.testing.assert_close(alignment(stack), torch.ones(2, 9, dtype=torch.float64))
    moved, unit = stack.W_enc - before, torch.nn.functional.normalize(stack.W_dec, dim=-1)
    torch.testing.assert_close(moved, (moved * unit).sum(-1, keepdim=True) * unit)


@pytest.mark.parametrize("name", ["weighted", "gated", "matryoshka", "unrolled"])
def test_every_path_of_the_engine_keeps_rows_aligned(name: str):
    ends: list[Stack] = []
    for sparse in (False,) if name in DENSE_ONLY else (False, True):
        stack = random_stack(2, 70, 5, ARCHITECTURES[name])
        stack.align_()
        paths, moments, x = torch.full((2,), sparse), zero_moments(stack), random_rows(300, 5)
        engine = Engine(stack, moments, paths, ARCHITECTURES[name], 300, aligned=True)
        for t in range(2, 6):
            engine.step(x, t, Adam.at(t, 0.05, 0.9, 0.999), torch.tensor([0.3, 0.1]).double(), dead=random_dead(2, 70))
        torch.testing.assert_close(alignment(stack), torch.ones(2, 70, dtype=torch.float64))
        ends.append(stack)
    assert not torch.equal(ends[0].W_enc, ends[0].W_dec), "the encoder learns"
    for tensor, other in zip(ends[0].parameters().values(), ends[-1].parameters().values(), strict=True):
        torch.testing.assert_close(tensor, other, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("shapes_unchecked")
@pytest.mark.parametrize("kind", KINDS)
def test_a_trained_dictionary_is_aligned(kind: str):
    """In raw units, resampled latents included."""
    [free], [aligned] = (sae.fit(SOURCE, kind, n_latents=48, aligned=on, **KINDS[kind], **FAST) for on in (False, True))
    assert float(((free.W_enc.T * free.W_dec).sum(-1) - 1).abs().max()) > 0.2
    torch.testing.assert_close((aligned.W_enc.T * aligned.W_dec).sum(-1), torch.ones(48))


@pytest.mark.slow
@pytest.mark.usefixtures("shapes_unchecked")
def test_the_rounded_encoder_is_that_of_the_aligned_rows():
    settings = {**FAST, "n_latents": 256, "l1": 2.0, "aligned": True, "resample_every": 0}
    [exact], [screened] = (sae.fit(SOURCE, "relu", precision=p, **settings) for p in ("float32", "screen"))
    torch.testing.assert_close(screened.W_enc, exact.W_enc, rtol=1e-4, atol=1e-5)


def test_divided_and_resumed_training_is_that_of_the_whole():
    members, config = [(TopK(n_latents=30, k=3), 0)], TrainConfig(**FAST, aligned=True)

    def last(processes: Processes) -> tuple[Tensor, dict[str, Tensor]]:
        [division] = divide([members], processes)
        *_, [state] = train_side_by_side([members], SOURCE, config, divisions=[division])
        return division.latents, state.checkpoint()

    _, whole = last(ALONE)
    for latents, part in run_as_processes(2, last):
        torch.testing.assert_close(part["parameter.W_enc"], whole["parameter.W_enc"][:, latents], rtol=1e-4, atol=1e-5)
    half = next(iter(train(members, SOURCE, config))).checkpoint()
    *_, resumed = train(members, SOURCE, config, resume=half)
    for name, tensor in resumed.checkpoint().items():
        assert torch.equal(tensor, whole[name]), name


def test_what_has_no_encoder_is_refused():
    with pytest.raises(UserError, match=r"train\.aligned = true: matching pursuit has no encoder"):
        next(iter(train([(MatchingPursuit(n_latents=12, k=2), 0)], SOURCE, TrainConfig(**FAST, aligned=True))))


def test_runs_without_it_keep_their_keys():
    assert "aligned" not in TrainConfig().model_dump() and TrainConfig(aligned=True).model_dump()["aligned"] is True
