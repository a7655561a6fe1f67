"""Sums over the codes of the test samples, from one pass over them in blocks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae.dictionary import Dictionary
from sae.metric import Case
from sae.numerics.weak_cache import once_per_object


class ReconstructionError(NamedTuple):
    """What the scores of a reconstruction are made of, in float64."""

    sums: Float[Tensor, "4"]
    """The sums over samples of the squared error, ||x - E x||^2, ||x_hat||^2 and x . x_hat."""
    of_samples: Float[Tensor, " rows"]
    """The squared error of every sample."""


class CodeSums(NamedTuple):
    """Sums over all test samples."""

    firings: Int[Tensor, " n_latents"]
    """The number of samples in which each latent fires."""
    l1: float
    """The sum of all |z_j|."""
    error: ReconstructionError
    """The error of the reconstruction."""


@once_per_object
def code_sums(case: Case) -> CodeSums:
    """The sums of a dictionary, computed once for all metrics."""
    d, test = case.dictionary, case.evidence.test
    firings = torch.zeros(d.n_latents, dtype=torch.int64, device=test.acts.device)
    l1 = torch.zeros((), dtype=torch.float64, device=test.acts.device)
    mean = test.wanted.mean(0, dtype=torch.float64)
    errors: list[ReconstructionError] = []
    for rows, z in case.blocks():
        firings += z.count_nonzero(0)
        l1 += z.abs().sum(dtype=torch.float64)
        errors.append(_error(d, test.acts[rows], z, test.wanted[rows], mean))
    return CodeSums(firings, float(l1), _joined(errors))


def _error(d: Dictionary, x: Tensor, z: Tensor, target: Tensor, mean: Tensor) -> ReconstructionError:
    """The error of one block; `mean` is that of all targets."""
    with torch.no_grad():
        x_hat = d.reconstruct(x, z).double()
    rows = target.double()
    # The variance from centred rows: the difference of two large numbers would lose digits.
    parts = (rows - x_hat).square(), (rows - mean).square(), x_hat.square(), rows * x_hat
    return ReconstructionError(torch.stack([part.sum() for part in parts]), parts[0].sum(-1))


def _joined(errors: Iterable[ReconstructionError]) -> ReconstructionError:
    sums, of_samples = zip(*errors, strict=True)
    return ReconstructionError(torch.stack(sums).sum(0), torch.cat(of_samples))
