"""Random stacks, and the loss as in the docstrings of the architectures, for tests of the engine."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from sae.architecture import Architecture, AuxK, Largest, LargestOfBatch, PreActivationLoss, Pursuit
from sae.dictionaries.batchtopk import BatchTopKArchitecture
from sae.dictionaries.gated import GatedArchitecture
from sae.dictionaries.jumprelu import JumpReLUArchitecture
from sae.dictionaries.matching_pursuit import PursuitArchitecture
from sae.dictionaries.matryoshka import MatryoshkaArchitecture
from sae.dictionaries.relu import ReluArchitecture
from sae.dictionaries.topk import TopKArchitecture
from sae.dictionaries.unrolled import UnrolledArchitecture
from sae.training.stack import Stack

JUMP = partial(JumpReLUArchitecture, start=0.4, bandwidth=1.1, sharpness=0.7, through_input=False)
LEVELS = (9, 20, 70)

PLAIN: dict[str, Architecture] = {
    "unit": ReluArchitecture(),
    "weighted": ReluArchitecture(unit_rows=False),
    "topk": TopKArchitecture(selection=Largest(3)),
}
ARCHITECTURES: dict[str, Architecture] = {
    **PLAIN,
    "lp": ReluArchitecture(unit_rows=False, shape="lp", p=0.6, width=2.0),
    "tanh": ReluArchitecture(shape="tanh", width=2.0),
    "log": ReluArchitecture(unit_rows=False, shape="log", width=0.7),
    "topk-aux": TopKArchitecture(selection=Largest(3), dead_latent_loss=AuxK(0.3, 4)),
    "topk-aux-few": TopKArchitecture(selection=Largest(3), dead_latent_loss=AuxK(0.3, 40)),
    "batchtopk": BatchTopKArchitecture(selection=LargestOfBatch(3)),
    "matryoshka": MatryoshkaArchitecture(levels=LEVELS, selection=LargestOfBatch(3)),
    "matryoshka-aux": MatryoshkaArchitecture(levels=LEVELS, selection=LargestOfBatch(3), dead_latent_loss=AuxK(0.3, 4)),
    "matryoshka-relu": MatryoshkaArchitecture(levels=LEVELS),
    "matryoshka-detach": MatryoshkaArchitecture(
        levels=LEVELS, selection=LargestOfBatch(3), dead_latent_loss=AuxK(0.3, 4), detach=True
    ),
    "unrolled": UnrolledArchitecture(selection=LargestOfBatch(3), shrinkage_step=0.3),
    "unrolled-levels": UnrolledArchitecture(
        levels=LEVELS, selection=LargestOfBatch(3), dead_latent_loss=AuxK(0.3, 4), detach=True, shrinkage_step=0.7
    ),
    "gated": GatedArchitecture(),
    "jumprelu": JUMP(shape="step"),
    "jumprelu-tanh": JUMP(shape="tanh"),
    "jumprelu-quadratic": JUMP(shape="quadratic"),
    "jumprelu-input": JUMP(shape="step", through_input=True),
    "jumprelu-aux": JUMP(shape="step", dead_latent_loss=PreActivationLoss(0.3)),
    "pursuit": PursuitArchitecture(selection=Pursuit(3)),
}
DENSE_ONLY = {"pursuit", "unrolled", "unrolled-levels"}


def random_stack(
    n_members: int, n_latents: int, d_in: int, architecture: Architecture, dtype: torch.dtype = torch.float64
) -> Stack:
    g = torch.Generator().manual_seed(0)
    shape = (n_members, n_latents, d_in)
    W_enc, W_dec = (torch.randn(shape, generator=g, dtype=dtype) for _ in range(2))
    if architecture.unit_rows:
        W_dec /= W_dec.norm(dim=-1, keepdim=True)
    else:
        W_dec *= 1 + torch.rand(n_members, n_latents, 1, generator=g, dtype=dtype)
    b_enc = 0.3 * torch.randn(n_members, n_latents, generator=g, dtype=dtype) - 0.5
    b_dec = 0.3 * torch.randn(n_members, d_in, generator=g, dtype=dtype)
    latent_parameters = {
        name: value + 0.3 * torch.rand(n_members, n_latents, generator=g, dtype=dtype)
        for name, value in architecture.initial_values.items()
    }
    stack = Stack(W_enc, W_dec, b_enc, b_dec, latent_parameters)
    if architecture.shrinkage_step:
        stack.first_threshold = torch.zeros_like(stack.batch_threshold)
    return stack


def random_rows(batch: int, d_in: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(batch, d_in, dtype=dtype, generator=torch.Generator().manual_seed(1))


def random_dead(n_members: int, n_latents: int) -> Tensor:
    return torch.rand(n_members, n_latents, generator=torch.Generator().manual_seed(2)) < 0.15


class Jump(torch.autograd.Function):
    """``[pre > threshold]`` with the window of 'Jumping ahead' in place of its gradient in the threshold."""

    @staticmethod
    def forward(ctx, pre, threshold, bandwidth, through_input):
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth, ctx.through_input = bandwidth, through_input
        return (pre > threshold).to(pre.dtype)

    @staticmethod
    def backward(ctx, upstream):
        pre, threshold = ctx.saved_tensors
        jump = ((pre - threshold).abs() < ctx.bandwidth / 2) / ctx.bandwidth * upstream
        return jump * ctx.through_input, -jump.sum(0), None, None


class JumpedCode(torch.autograd.Function):
    """``pre [pre > threshold]``, with the same window."""

    @staticmethod
    def forward(ctx, pre, threshold, bandwidth):
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return pre * (pre > threshold)

    @staticmethod
    def backward(ctx, upstream):
        pre, threshold = ctx.saved_tensors
        window = ((pre - threshold).abs() < ctx.bandwidth / 2) / ctx.bandwidth
        return (pre > threshold) * upstream, -(threshold * window * upstream).sum(0), None


def selected(pre: Tensor, architecture: Architecture) -> Tensor:
    """The codes that a selection keeps, for autograd."""
    z = torch.relu(pre)
    if isinstance(architecture.selection, Largest):
        largest = z.topk(architecture.selection.k, dim=-1)
        return torch.zeros_like(z).scatter(-1, largest.indices, largest.values)
    if isinstance(architecture.selection, LargestOfBatch):
        threshold = z.flatten().topk(architecture.selection.k * len(z)).values[-1]
        return z * (z >= threshold)
    return z


def losses(
    stack: Stack,
    architecture: Architecture,
    x: Tensor,
    coefficient: Tensor,
    y: Tensor | None = None,
    dead: Tensor | None = None,
    target_l0: Tensor | None = None,
) -> Tensor:
    """The loss of every member, for autograd."""
    y = x if y is None else y
    by_member = []
    for i in range(stack.n_members):
        parameters = {name: numbers[i] for name, numbers in stack.latent_parameters.items()}
        W_enc, W_dec, b_dec = stack.W_enc[i], stack.W_dec[i], stack.b_dec[i]
        pre = (x - stack.subtracted[i]) @ W_enc.T + stack.b_enc[i]
        pre_0 = pre
        weight, auxiliary = coefficient[i], torch.zeros_like(coefficient[i])
        norm = torch.ones_like(stack.b_enc[i]) if architecture.unit_rows else W_dec.norm(dim=-1)
        if isinstance(architecture, PursuitArchitecture):
            by_member.append(pursuit_loss(x - b_dec, W_dec, architecture.selection.k))
            continue
        if isinstance(architecture, GatedArchitecture):
            gate = torch.relu(pre)
            z = torch.relu(parameters["log_gain"].exp() * gate + parameters["shift"]) * (pre > 0)
            penalty = gate.sum(-1).mean()
            auxiliary = ((gate @ W_dec.detach() + b_dec.detach() - y) ** 2).sum(-1).mean()
        elif isinstance(architecture, JumpReLUArchitecture):
            z = JumpedCode.apply(pre, parameters["threshold"], architecture.bandwidth)
            jump = Jump.apply(pre, parameters["threshold"], architecture.bandwidth, architecture.through_input)
            penalty = jump.sum(-1).mean()
            if architecture.shape == "tanh":
                penalty = torch.tanh(architecture.sharpness * z).sum(-1).mean()
            elif architecture.shape == "quadratic":
                penalty = (penalty / target_l0[i] - 1) ** 2
        else:
            if eta := architecture.shrinkage_step:
                pre = pre - eta * (selected(pre, architecture) @ W_dec + b_dec - x) @ W_dec.T
            z = selected(pre, architecture)
            penalty = architecture.penalty(z * norm).sum(-1).mean()
        residuals = level_residuals(architecture, z, W_dec, b_dec, y)
        mse = torch.stack([(r**2).sum(-1).mean() for r in residuals]).mean()
        if dead is not None and architecture.dead_latent_loss is not None:
            loss = architecture.dead_latent_loss
            auxiliary = auxiliary + dead_loss(loss, pre_0, parameters, W_dec, residuals[-1], dead[i])
        by_member.append(mse + weight * penalty + auxiliary)
    return torch.stack(by_member)


def level_residuals(architecture: Architecture, z: Tensor, W_dec: Tensor, b_dec: Tensor, y: Tensor) -> list[Tensor]:
    """``x_hat - y`` of every level."""
    levels = architecture.levels or (len(W_dec),)
    whole = [z[:, :w] @ W_dec[:w] + b_dec - y for w in levels]
    if not architecture.detach or len(levels) == 1:
        return whole
    inner = [torch.zeros_like(y) + b_dec - y, *(r.detach() for r in whole[:-2])]
    added = [z[:, first:last] @ W_dec[first:last] for first, last in pairwise((0, *levels[:-1]))]
    return [*(r + more for r, more in zip(inner, added, strict=True)), whole[-1]]


def dead_loss(
    loss: AuxK | PreActivationLoss, pre: Tensor, parameters: dict, W_dec: Tensor, residual: Tensor, dead: Tensor
) -> Tensor:
    if isinstance(loss, PreActivationLoss):
        return loss.coefficient * torch.relu(parameters["threshold"] - pre)[:, dead].sum(-1).mean()
    n_dead = int(dead.sum())
    z = torch.relu(pre) * dead
    largest = z.topk(min(loss.k, n_dead), dim=-1)
    z = torch.zeros_like(z).scatter(-1, largest.indices, largest.values)
    error = residual.detach() + z @ W_dec
    return loss.coefficient * min(1, n_dead / loss.k) * (error**2).sum(-1).mean()


def pursuit_loss(r: Tensor, W_dec: Tensor, k: int) -> Tensor:
    for _ in range(k):
        amount, latent = (r @ W_dec.T).max(-1)
        r = r - torch.relu(amount)[:, None] * W_dec[latent]
    return (r**2).sum(-1).mean()


def gradients_by_autograd(
    stack: Stack, architecture: Architecture, x: Tensor, coefficient: Tensor, **inputs: Tensor | None
) -> dict[str, Tensor]:
    leaves = {name: p.clone().requires_grad_() for name, p in stack.parameters().items()}
    centre = {} if stack.centre is None else {"centre": stack.centre}
    total = losses(Stack.of({**leaves, **centre}), architecture, x, coefficient, **inputs).sum()
    gradients = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    return {
        name: torch.zeros_like(p) if g is None else g for (name, p), g in zip(leaves.items(), gradients, strict=True)
    }


def zero_moments(stack: Stack) -> dict[str, list[Tensor]]:
    return {name: [torch.zeros_like(p), torch.zeros_like(p)] for name, p in stack.parameters().items()}
