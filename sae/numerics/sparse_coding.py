"""Sparse coding: non-negative codes for fixed directions by optimisation, and least-squares directions for fixed codes.

Encoders, refinement and dictionary learning share these solvers. They take the correlations
``c = (x - b_dec) W_dec^T`` of samples with directions. The codes of a sample do not depend on the other samples of the
batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae.numerics.thresholding import above

CHECK_EVERY = 5
"""Iterations between two checks of which rows have converged."""


def lasso(
    drive: Float[Tensor, "*batch n_latents"],
    W_dec: Float[Tensor, "n_latents d_in"],
    n_iterations: int,
    tolerance: float = 0.0,
    start: Float[Tensor, "*batch n_latents"] | None = None,
    support: Bool[Tensor, "*batch n_latents"] | None = None,
) -> Float[Tensor, "*batch n_latents"]:
    """``argmin_{z >= 0} 1/2 ||x - z W_dec||^2 + sum_j l1_j z_j`` by FISTA, from ``drive = x W_dec^T - l1``.

    Beck and Teboulle 2009. The momentum of a row is reset where it points uphill (O'Donoghue and Candes 2015,
    'Adaptive restart for accelerated gradient schemes'). A row has converged when an iteration changes none of its
    codes by more than `tolerance` times the largest; there are at most `n_iterations`. Codes outside `support` stay 0:
    with ``drive = x W_dec^T`` this is non-negative least squares on the support.
    """
    shape, product = drive.shape, gram_product(W_dec)
    step = 1 / largest_eigenvalue(W_dec)
    drive = drive.reshape(-1, shape[-1])
    allowed = None if support is None else support.reshape(-1, shape[-1]).to(drive.dtype)
    z = torch.zeros_like(drive) if start is None else start.reshape(-1, shape[-1])
    rows, ahead, t = torch.arange(len(z), device=z.device), z, z.new_ones(len(z), 1)
    done: list[tuple[Tensor, Tensor]] = []
    for i in range(1, n_iterations + 1):
        previous, z = z, torch.relu(ahead + step * (drive - product(ahead)))
        z = z if allowed is None else z * allowed
        t_next = (1 + (1 + 4 * t * t).sqrt()) / 2
        moved = z - previous
        uphill = ((ahead - z) * moved).sum(-1, keepdim=True) > 0
        ahead = torch.where(uphill, z, z + (t - 1) / t_next * moved)
        t = torch.where(uphill, torch.ones_like(t), t_next)
        if tolerance > 0 and i % CHECK_EVERY == 0:
            going = moved.detach().abs().amax(-1) > tolerance * z.detach().amax(-1)
            if not bool(going.all()):
                done.append((rows[~going], z[~going]))
                rows, z, ahead, t, drive = (tensor[going] for tensor in (rows, z, ahead, t, drive))
                allowed = None if allowed is None else allowed[going]
            if len(rows) == 0:
                break
    done.append((rows, z))
    order = torch.cat([rows for rows, _ in done]).argsort()
    return torch.cat([codes for _, codes in done])[order].reshape(shape)


def debiased(
    z: Float[Tensor, "*batch n_latents"],
    correlation: Float[Tensor, "*batch n_latents"],
    W_dec: Float[Tensor, "n_latents d_in"],
    n_iterations: int,
    tolerance: float,
) -> Float[Tensor, "*batch n_latents"]:
    """Non-negative least squares over the latents that are active in `z`: removes the shrinkage of the penalty."""
    return lasso(correlation, W_dec, n_iterations, tolerance, start=z, support=z > 0)


class LassoCodes(NamedTuple):
    """The codes of a lasso, before and after debiasing."""

    shrunk: Float[Tensor, "rows n_latents"]
    """The codes of the lasso, shrunk by its penalty."""
    debiased: Float[Tensor, "rows n_latents"]
    """Non-negative least squares on the latents whose lasso codes exceed the threshold."""


def sparse_codes(
    x: Float[Tensor, "rows d_in"],
    W_dec: Float[Tensor, "n_latents d_in"],
    l1: float,
    threshold: float,
    n_iterations: int,
    tolerance: float,
    rows_at_once: int = 512,
) -> LassoCodes:
    """Codes to fit encoders to: those of a lasso above `threshold`, then least squares on the active latents."""
    pieces: list[LassoCodes] = []
    for rows in x.split(rows_at_once):
        correlation = rows @ W_dec.T
        shrunk = lasso(correlation - l1 * W_dec.norm(dim=-1), W_dec, n_iterations, tolerance)
        left = above(shrunk, threshold)
        pieces.append(LassoCodes(shrunk, debiased(left, correlation, W_dec, n_iterations, tolerance)))
    return LassoCodes(*(torch.cat(codes) for codes in zip(*pieces, strict=True)))


def fitted_directions(
    second: Float[Tensor, "n n"], cross: Float[Tensor, "n d_in"], before: Float[Tensor, "n d_in"], ridge: float
) -> Float[Tensor, "n d_in"]:
    """``argmin_D sum ||x - z D||^2 + ridge ||D - before||^2``, from ``second = sum z^T z``, ``cross = sum z^T x``.

    The update of the method of optimal directions (Engan et al. 1999) is ``(second + ridge)^-1 cross``; here directions
    that the codes do not determine stay at `before` instead of shrinking to zero.
    """
    matrix = second + ridge * torch.eye(len(second)).to(second)
    return torch.linalg.solve(matrix, cross + ridge * before)


def unit_or(after: Float[Tensor, "n d_in"], before: Float[Tensor, "n d_in"]) -> Float[Tensor, "n d_in"]:
    """Rows of `after` scaled to norm one; rows of nearly zero norm are replaced by those of `before`."""
    norm = after.norm(dim=-1, keepdim=True)
    return torch.where(norm > 1e-6, after / norm.clamp_min(1e-6), before)


def lasso_multiply_adds(W_dec: Tensor, n_iterations: int) -> int:
    """The most multiply-adds of :func:`lasso` per row: the correlations, then one product per iteration."""
    n_latents, d_in = W_dec.shape
    return n_latents * (d_in + n_iterations * min(n_latents, 2 * d_in))


def pursuit(
    correlation: Float[Tensor, "rows n_latents"],
    W_dec: Float[Tensor, "n_latents d_in"],
    power: Float[Tensor, " rows"],
    k: int,
    tolerance: float = 0.0,
) -> Float[Tensor, "rows n_latents"]:
    """Non-negative orthogonal matching pursuit: adds `k` times the latent most correlated with the residual, and
    solves least squares over all chosen latents.

    Pati et al. 1993; Bruckstein, Elad and Zibulevsky 2008 for the sign. Latents that least squares would make negative
    are dropped and may be chosen again. `power` is ``||x||^2``; a row stops when the squared norm of its residual is at
    most ``tolerance^2 power``, or when no latent correlates positively with the residual.
    """
    norm = W_dec.norm(dim=-1)
    scale = torch.where(norm > 0, 1 / norm.clamp_min(1e-30), torch.zeros_like(norm))
    noise = 8 * torch.finfo(W_dec.dtype).eps * power.sqrt()[:, None]
    product = gram_product(W_dec)
    chosen = torch.zeros(len(correlation), 0, dtype=torch.int64, device=W_dec.device)
    inside = torch.zeros_like(chosen, dtype=torch.bool)
    z = torch.zeros_like(correlation)
    for _ in range(k):
        along = (correlation - product(z)) * scale  # of the residual
        left = power - (z * (2 * correlation - product(z))).sum(-1)
        along = along.masked_fill(z > 0, 0)
        best = along.max(-1, keepdim=True)
        new = (best.values > noise) & (left > tolerance**2 * power)[:, None]
        if not bool(new.any()):
            break
        chosen, inside = torch.cat([chosen, best.indices], -1), torch.cat([inside, new], -1)
        values, inside = _least_squares(correlation.gather(-1, chosen), W_dec[chosen], inside)
        z = torch.zeros_like(correlation).scatter_add(-1, chosen, values)
    return z


def _least_squares(
    correlation: Float[Tensor, "rows k"], chosen: Float[Tensor, "rows k d_in"], inside: Bool[Tensor, "rows k"]
) -> tuple[Float[Tensor, "rows k"], Bool[Tensor, "rows k"]]:
    """Least squares over the latents that are `inside`; negative ones are removed until none is negative."""
    gram = chosen @ chosen.mT
    # Without it, a direction that is twice in a support would make the matrix singular.
    jitter = 8 * torch.finfo(gram.dtype).eps * gram.diagonal(dim1=-2, dim2=-1)
    while True:
        both = inside[:, :, None] & inside[:, None, :]
        diagonal = torch.where(inside, jitter, torch.ones_like(jitter))
        matrix = torch.where(both, gram, torch.zeros_like(gram)) + torch.diag_embed(diagonal)
        values = torch.linalg.solve(matrix, torch.where(inside, correlation, torch.zeros_like(correlation)))
        negative = inside & (values <= 0)
        if not bool(negative.any()):
            return torch.where(inside, values, torch.zeros_like(values)), inside
        inside = inside & ~negative


def gram_product(W_dec: Float[Tensor, "n_latents d_in"]) -> Callable[[Tensor], Tensor]:
    """``z -> z W_dec W_dec^T``, in one product or two, whichever is fewer multiply-adds."""
    if len(W_dec) <= 2 * W_dec.shape[1]:
        gram = W_dec @ W_dec.T
        return lambda z: z @ gram
    return lambda z: (z @ W_dec) @ W_dec.T


def largest_eigenvalue(W_dec: Float[Tensor, "n_latents d_in"]) -> Float[Tensor, ""]:
    """The largest eigenvalue of ``W_dec W_dec^T``, from the smaller of the two Gram matrices."""
    n_latents, d_in = W_dec.shape
    smaller = W_dec.T @ W_dec if d_in <= n_latents else W_dec @ W_dec.T
    return torch.linalg.eigvalsh(smaller)[-1].clamp_min(1e-12)


class PursuitStep(NamedTuple):
    """One step of matching pursuit: the latent of every row, its coefficient, and the residuals."""

    latent: Int[Tensor, " rows"]
    """The latent most correlated with the residual."""
    amount: Float[Tensor, " rows"]
    """Its coefficient, non-negative."""
    before: Float[Tensor, "rows d_in"]
    """The residual before the step."""
    after: Float[Tensor, "rows d_in"]
    """The residual after the step."""


def pursue(
    r: Float[Tensor, "rows d_in"],
    W_enc: Float[Tensor, "d_in n_latents"],
    W_dec: Float[Tensor, "n_latents d_in"],
    k: int,
) -> Iterator[PursuitStep]:
    """`k` steps of matching pursuit on the residuals `r`; `W_enc` is the transpose of `W_dec`."""
    for _ in range(k):
        amount, latent = (r @ W_enc).max(-1)
        amount, before = amount.relu_(), r
        r = torch.addcmul(r, amount[:, None], W_dec[latent], value=-1)
        yield PursuitStep(latent, amount, before, r)
