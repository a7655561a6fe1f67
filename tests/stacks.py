"""Random stacks and the loss as the docstrings of the architectures write it, for tests of the engine."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sae.dictionaries.relu import ReluArchitecture
from sae.dictionaries.topk import TopKArchitecture
from sae.kernels import Largest, Positive
from sae.stack import Architecture, Stack


@dataclass(frozen=True)
class LogSum(Architecture):
    """A penalty that is not linear, ``phi(u) = log(1 + u)``, so that every term of the engine is asked for."""

    unit_rows = False
    selection = Positive()

    def penalty(self, u: Tensor) -> Tensor:
        return torch.log1p(u)

    def slope(self, u: Tensor) -> Tensor:
        return 1 / (1 + u)

    def build(self, tensors, input_scale):
        raise NotImplementedError


ARCHITECTURES: dict[str, Architecture] = {
    "unit": ReluArchitecture(unit_rows=True),
    "weighted": ReluArchitecture(unit_rows=False),
    "log-sum": LogSum(),
    "topk": TopKArchitecture(Largest(3)),
}


def random_stack(
    n_members: int, n_latents: int, d_in: int, unit_rows: bool = False, dtype: torch.dtype = torch.float64
) -> Stack:
    g = torch.Generator().manual_seed(0)
    shape = (n_members, n_latents, d_in)
    W_enc, W_dec = (torch.randn(shape, generator=g, dtype=dtype) for _ in range(2))
    if unit_rows:
        W_dec /= W_dec.norm(dim=-1, keepdim=True)
    else:
        W_dec *= 1 + torch.rand(n_members, n_latents, 1, generator=g, dtype=dtype)
    b_enc = 0.3 * torch.randn(n_members, n_latents, generator=g, dtype=dtype) - 0.5
    b_dec = 0.3 * torch.randn(n_members, d_in, generator=g, dtype=dtype)
    return Stack(W_enc, W_dec, b_enc, b_dec)


def random_rows(batch: int, d_in: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(batch, d_in, dtype=dtype, generator=torch.Generator().manual_seed(1))


def losses(stack: Stack, architecture: Architecture, x: Tensor, coefficient: Tensor) -> Tensor:
    """The loss of every member, for autograd."""
    found = []
    for i in range(stack.n_members):
        z = torch.relu((x - stack.b_dec[i]) @ stack.W_enc[i].T + stack.b_enc[i])
        if isinstance(architecture.selection, Largest):
            largest = z.topk(architecture.selection.k, dim=-1)
            z = torch.zeros_like(z).scatter(-1, largest.indices, largest.values)
        x_hat = z @ stack.W_dec[i] + stack.b_dec[i]
        norm = torch.ones_like(stack.b_enc[i]) if architecture.unit_rows else stack.W_dec[i].norm(dim=-1)
        phi = architecture.penalty(z * norm).sum(-1)
        found.append(((x_hat - x) ** 2).sum(-1).mean() + coefficient[i] * phi.mean())
    return torch.stack(found)


def gradients_by_autograd(
    stack: Stack, architecture: Architecture, x: Tensor, coefficient: Tensor
) -> dict[str, Tensor]:
    leaves = {name: p.clone().requires_grad_() for name, p in stack.parameters().items()}
    total = losses(Stack(**leaves), architecture, x, coefficient).sum()
    return dict(zip(leaves, torch.autograd.grad(total, list(leaves.values())), strict=True))


def zero_moments(stack: Stack) -> dict[str, list[Tensor]]:
    return {name: [torch.zeros_like(p), torch.zeros_like(p)] for name, p in stack.parameters().items()}
