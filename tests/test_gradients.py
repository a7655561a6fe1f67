"""The hand-written step against autograd in float64, for stacks and both constraints."""

from __future__ import annotations

import pytest
import torch

from sae.dictionaries.relu import Config, ReluArchitecture
from sae.gradients import Workspace, backward, forward
from sae.stack import Stack


def random_stack(n_members: int, n_latents: int, d_in: int) -> Stack:
    g = torch.Generator().manual_seed(0)
    shape = (n_members, n_latents, d_in)
    W_enc, W_dec = (torch.randn(shape, generator=g, dtype=torch.float64) for _ in range(2))
    W_dec *= 1 + torch.rand(n_members, n_latents, 1, generator=g, dtype=torch.float64)
    b_enc = 0.3 * torch.randn(n_members, n_latents, generator=g, dtype=torch.float64)
    b_dec = 0.3 * torch.randn(n_members, d_in, generator=g, dtype=torch.float64)
    return Stack(W_enc, W_dec, b_enc, b_dec)


def loss_by_autograd(stack: Stack, x: torch.Tensor, l1: torch.Tensor, weighted: bool) -> torch.Tensor:
    """The loss as the docstring of `relu` writes it, member by member."""
    losses = []
    for i in range(stack.n_members):
        z = torch.relu((x - stack.b_dec[i]) @ stack.W_enc[i].T + stack.b_enc[i])
        x_hat = z @ stack.W_dec[i] + stack.b_dec[i]
        weight = stack.W_dec[i].norm(dim=-1) if weighted else torch.ones_like(stack.b_enc[i])
        losses.append(((x_hat - x) ** 2).sum(-1).mean() + l1[i] * (z * weight).sum(-1).mean())
    return torch.stack(losses)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_members", [1, 3])
def test_gradients_equal_autograds(weighted: bool, n_members: int):
    stack = random_stack(n_members, 7, 5)
    x = torch.randn(11, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    l1 = torch.tensor([0.3, 0.0, 1.7], dtype=torch.float64)[:n_members]
    architecture = ReluArchitecture(unit_rows=not weighted)

    for p in stack.parameters().values():
        p.requires_grad_(True)
    losses = loss_by_autograd(stack, x, l1, weighted)
    expected = dict(zip(Stack.NAMES, torch.autograd.grad(losses.sum(), stack.parameters().values()), strict=True))
    for p in stack.parameters().values():
        p.requires_grad_(False)

    work = Workspace.for_stack(stack, len(x))
    _, residual = forward(stack, architecture, x, work.z, work.residual)
    mse = residual.square().sum(-1).mean(-1)
    z_sum, penalty = backward(stack, architecture, x, l1, work)
    torch.testing.assert_close(mse + penalty, losses.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(z_sum, work.z.sum(1))
    for name in Stack.NAMES:
        torch.testing.assert_close(work.gradients[name], expected[name], rtol=1e-11, atol=1e-12, msg=name)


def test_a_folded_dictionary_reconstructs_what_the_scaled_one_did():
    stack = random_stack(1, 7, 5)
    x = torch.randn(11, 5, dtype=torch.float64)
    scale = 3.7
    _, residual = forward(stack, Config(n_latents=7, l1=0.1).architecture(), x * scale, *buffers(stack, 11))
    d = Config(n_latents=7, l1=0.1).architecture().build(stack.member(0), scale)
    torch.testing.assert_close(d.W_dec.norm(dim=-1), torch.ones(7, dtype=torch.float64))
    torch.testing.assert_close(d.decode(d.encode(x)), x + residual[0] / scale)


def buffers(stack: Stack, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    work = Workspace.for_stack(stack, batch)
    return work.z, work.residual
