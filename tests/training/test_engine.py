"""Both paths of the engine against autograd in float64 and against each other, and the choice between the paths."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sae.architecture import raw_units
from sae.dictionaries.relu import Config as Relu
from sae.training.engine import CHOOSE_PATH_EVERY, Engine
from sae.training.gradients import Terms
from sae.training.kernels import Adam
from sae.training.kernels.backend import kernels_for
from sae.training.kernels.reference import Reference
from sae.training.stack import Stack
from tests.stacks import (
    ARCHITECTURES,
    DENSE_ONLY,
    gradients_by_autograd,
    losses,
    random_dead,
    random_rows,
    random_stack,
    zero_moments,
)

L1 = torch.tensor([0.3, 0.0, 1.7], dtype=torch.float64)
KERNELS = {"reference": Reference(), "fast": kernels_for(torch.zeros(1))}


def engine_of(stack: Stack, architecture: str, batch: int, sparse: bool, kernels: str = "fast", **settings) -> Engine:
    paths = torch.full((stack.n_members,), sparse)
    settings.setdefault("target_l0", torch.full((stack.n_members,), 5.0, dtype=stack.W_dec.dtype))
    return Engine(
        stack,
        zero_moments(stack),
        paths,
        ARCHITECTURES[architecture],
        batch,
        kernels=KERNELS[kernels],
        **settings,
    )


CASES = [
    pytest.param(name, sparse, n, kernels, id=f"{name}-{'sparse' if sparse else 'dense'}-{n}-{kernels}")
    for name in ARCHITECTURES
    for sparse in (False, True)
    for n in (1, 3)
    for kernels in KERNELS
    if not (sparse and name in DENSE_ONLY)
]


@pytest.mark.parametrize(("name", "sparse", "n_members", "kernels"), CASES)
def test_gradients_equal_autograds(name: str, sparse: bool, n_members: int, kernels: str):
    """After one step of Adam from zero moments, the first moment is a tenth of the gradient."""
    architecture = ARCHITECTURES[name]
    stack = random_stack(n_members, 70, 5, architecture)
    x, l1 = random_rows(300, 5), L1[:n_members]  # 300 rows are more than one block
    dead, target_l0 = random_dead(n_members, 70), torch.tensor([3.0, 20.0, 9.0]).double()[:n_members]
    engine = engine_of(stack, name, len(x), sparse, kernels, target_l0=target_l0)
    check_step(engine, x, l1, dead=dead, target_l0=target_l0)


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("name", ["weighted", "gated", "jumprelu", "matryoshka-aux"])
def test_the_target_may_differ_from_the_input(name: str, sparse: bool):
    """A transcoder: the encoder subtracts a constant, and b_dec has no part in it."""
    stack = random_stack(2, 70, 5, ARCHITECTURES[name])
    stack.centre = torch.linspace(-1, 1, 10, dtype=torch.float64).view(2, 5)
    x = random_rows(300, 5)
    y = torch.tanh(x @ torch.linspace(-1, 1, 25, dtype=torch.float64).view(5, 5))
    check_step(engine_of(stack, name, len(x), sparse), x, L1[:2], y=y, dead=random_dead(2, 70))


def check_step(engine: Engine, x: Tensor, l1: Tensor, y: Tensor | None = None, **inputs: Tensor) -> None:
    stack, architecture = engine.stack, engine.architecture
    loss = losses(stack, architecture, x, l1, y, **inputs)
    expected = gradients_by_autograd(stack, architecture, x, l1, y=y, **inputs)
    if architecture.unit_rows:
        along = (expected["W_dec"] * stack.W_dec).sum(-1, keepdim=True)
        expected["W_dec"] -= along * stack.W_dec
    terms = engine.step(x, 2, Adam.at(1, 1e-3, 0.9, 0.999), l1, y=y, dead=inputs["dead"])
    torch.testing.assert_close(terms.loss, loss, rtol=1e-12, atol=1e-12)
    for name, moment in engine.m.parameters().items():
        gradient = moment / (1 - 0.9)
        torch.testing.assert_close(gradient, expected[name], rtol=1e-10, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}")


def test_adam_is_torchs():
    stack = random_stack(1, 8, 5, ARCHITECTURES["weighted"])
    reference = {name: p.clone().requires_grad_() for name, p in stack.parameters().items()}
    adam = torch.optim.Adam(list(reference.values()), lr=1e-2, betas=(0.9, 0.99))
    engine = engine_of(stack, "weighted", 40, sparse=True)
    for t in range(1, 6):
        x = random_rows(40, 5)
        adam.zero_grad()
        losses(Stack(**reference), ARCHITECTURES["weighted"], x, L1[:1]).sum().backward()
        adam.step()
        engine.step(x, t, Adam.at(t, 1e-2, 0.9, 0.99), L1[:1])
    for name, p in stack.parameters().items():
        torch.testing.assert_close(p, reference[name].detach(), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name not in DENSE_ONLY])
def test_both_paths_train_alike(architecture: str):
    ends = []
    for sparse in (False, True):
        stack = random_stack(2, 70, 6, ARCHITECTURES[architecture])
        engine = engine_of(stack, architecture, 200, sparse)
        for t in range(2, 9):
            adam, x = Adam.at(t, 1e-3, 0.9, 0.999), random_rows(200, 6)
            terms = engine.step(x, t, adam, L1[:2], dead=random_dead(2, 70))
        ends.append({**stack.tensors(), **vars(terms)})
    for name in ends[0]:
        torch.testing.assert_close(ends[0][name], ends[1][name], rtol=1e-9, atol=1e-9, msg=name)


def test_the_terms_are_counts_of_what_fired():
    stack = random_stack(1, 70, 5, ARCHITECTURES["unit"])
    x = random_rows(64, 5)
    z = torch.relu((x - stack.b_dec[0]) @ stack.W_enc[0].T + stack.b_enc[0])
    for sparse in (False, True):
        terms = engine_of(Stack(**{k: p.clone() for k, p in stack.parameters().items()}), "unit", 64, sparse).step(
            x, 2, Adam.at(1, 1e-3, 0.9, 0.999), L1[:1]
        )
        assert float(terms.l0[0]) == pytest.approx(float((z > 0).sum(-1).double().mean()))
        assert torch.equal(terms.fired[0], (z > 0).any(0))


@pytest.mark.parametrize("precision", ["screen", "bfloat16"])
def test_the_screen_finds_the_codes_of_float32_and_the_rounded_product_only_nearly(precision: str):
    ends = []
    for used in ("float32", precision):
        stack = random_stack(1, 130, 24, ARCHITECTURES["unit"], torch.float32)
        stack.b_enc -= 6
        engine = engine_of(stack, "unit", 300, True, precision=used)
        for t in range(2, 9):
            terms = engine.step(random_rows(300, 24, torch.float32), t, Adam.at(t, 1e-2, 0.9, 0.999), L1[:1].float())
        ends.append((terms.l0, stack.W_enc.clone()))
    assert 1 < float(ends[0][0]) < 65
    if precision == "screen":
        assert torch.equal(ends[0][0], ends[1][0])
        torch.testing.assert_close(ends[0][1], ends[1][1], rtol=1e-4, atol=1e-4)
    else:
        assert not torch.equal(ends[0][1], ends[1][1])
        torch.testing.assert_close(ends[0][1], ends[1][1], rtol=0.1, atol=0.05)


def test_the_path_follows_the_density_with_hysteresis():
    engine = engine_of(random_stack(4, 100, 5, ARCHITECTURES["weighted"]), "unit", 10, sparse=False)
    engine.is_sparse.copy_(torch.tensor([False, False, True, True]))
    below, above = engine.kernels.sparse_below, engine.kernels.dense_above
    assert 0 < below < above < 1
    between = 100 * (below + above) / 2
    engine._choose_paths(torch.tensor([90 * below, between, between, 110 * above]))
    assert engine.is_sparse.tolist() == [True, False, True, False]


def test_a_member_takes_its_own_path_in_any_stack():
    """One member is dense, one sparse: both change as they do alone, to the bit."""
    x, l1 = random_rows(64, 16, torch.float32), torch.tensor([0.1, 0.5])
    stack = random_stack(2, 64, 16, ARCHITECTURES["unit"], torch.float32)
    stack.b_enc[1] -= 8
    alone = [Stack(**{k: p[i : i + 1].clone() for k, p in stack.parameters().items()}) for i in (0, 1)]
    together = engine_of(stack, "unit", 64, False)
    apart = [engine_of(one, "unit", 64, False) for one in alone]
    for t in range(1, CHOOSE_PATH_EVERY + 3):
        adam = Adam.at(t, 1e-3, 0.9, 0.999)
        together.step(x, t, adam, l1)
        for i, engine in enumerate(apart):
            engine.step(x, t, adam, l1[i : i + 1])
    assert together.is_sparse.tolist() == [False, True] == [bool(e.is_sparse) for e in apart]
    for i, one in enumerate(alone):
        for name, p in one.parameters().items():
            assert torch.equal(p[0], getattr(stack, name)[i]), (i, name)


def test_a_folded_dictionary_reconstructs_what_the_scaled_one_did():
    stack, x, scale = random_stack(1, 7, 5, ARCHITECTURES["weighted"]), random_rows(11, 5), 3.7
    z = torch.relu((x * scale - stack.b_dec) @ stack.W_enc[0].T + stack.b_enc)
    x_hat = (z @ stack.W_dec[0] + stack.b_dec) / scale
    d = Relu(n_latents=7, l1=0.1).architecture().build(stack.member(0), scale)
    torch.testing.assert_close(d.W_dec.norm(dim=-1), torch.ones(7, dtype=torch.float64))
    torch.testing.assert_close(d.decode(d.encode(x)), x_hat)
    assert raw_units(stack.member(0), 1.0)["W_enc"].shape == (5, 7)


def test_the_errors_are_those_of_the_forward_pass():
    stack, x = random_stack(2, 9, 5, ARCHITECTURES["weighted"]), random_rows(300, 5)
    engine = engine_of(stack, "weighted", 300, False)
    errors = engine.errors(x)
    for i in range(2):
        z = torch.relu((x - stack.b_dec[i]) @ stack.W_enc[i].T + stack.b_enc[i])
        torch.testing.assert_close(errors[i], (z @ stack.W_dec[i] + stack.b_dec[i] - x).square().sum(-1))


def test_terms_of_a_part_are_views():
    terms = Terms.empty(random_stack(3, 7, 5, ARCHITECTURES["unit"]))
    terms.part(1, 2).mse.fill_(4)
    assert terms.mse.tolist() == [0, 4, 0]
