"""Stagewise least squares: sparse codes for fixed unit directions, by a few rounds of tests against chance.

A sample starts with an empty support S and the residual r = x. A round consists of

    add     S = {j : u_j > n_sd ||r|| / sqrt(d_in) or u_j > max u / 2},    u = r W^T + z,  at most the `k` largest
    fit     z_S = least squares of x on the directions in S,    r = x - z_S W_S
    remove  j from S while  z_j / sqrt((G_S^-1)_jj) < n_sd ||r|| / sqrt(d_in - |S|),  refitting z_S

with G_S the inner products of the directions in S. A direction that has nothing to do with the residual has an inner
product with it of standard deviation ``||r|| / sqrt(d_in)``, so `n_sd` sets how often chance adds a latent
(:func:`deviations_for`); the last line is the t-test of linear regression for leaving out one direction. As the support
becomes right the residual falls, and with it the threshold: without noise to almost zero, with noise to its level. No
number is fitted to data.

Adding many at once by such a test is stagewise orthogonal matching pursuit (Donoho, Tsaig, Drori and Starck 2012,
'Sparse solution of underdetermined systems of linear equations by stagewise orthogonal matching pursuit'); removing
them is backward elimination. The differences: codes are non-negative, and every round tests all latents anew.

On a CPU the supports are fitted by loops that numba compiles (:mod:`sae.numerics.stagewise_loops`); elsewhere by
batched products. Both do the same operations; a test compares them.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae.numerics.seeds import HAS_NUMBA

CELLS_AT_ONCE = 2**23
"""Samples times latents, or times the numbers of the directions in a support, that are computed at once."""
PASSES = 20
"""The most rounds of removal after a fit."""
ALIKE = 0.5
"""Of two directions with a larger inner product only one is removed at a time: alone, the other may pass its test."""
WEAK = 0.5
"""Latents are also added whose inner product is at least this share of the largest: in a few dimensions, a sample with
several features has no inner product beyond chance, though their fit has."""
FLOOR = 1e-4
"""Codes below this share of the sample's norm are rounding errors."""
JITTER = 1e-5
"""Added to the diagonal of the inner products, so that a direction that is there twice can be fitted."""


class SupportCodes(NamedTuple):
    """Codes without their zeros."""

    latent: Int[Tensor, "rows k"]
    """The latents of each sample; 0 where there are fewer than k."""
    code: Float[Tensor, "rows k"]
    """Their codes, positive; 0 where there are fewer than k."""
    residual: Float[Tensor, "rows d_in"]
    """What they leave of the sample."""

    def dense(self, n_latents: int) -> Float[Tensor, "rows n_latents"]:
        """The codes as a matrix with its zeros."""
        return self.code.new_zeros(len(self.code), n_latents).scatter_add_(1, self.latent, self.code)


def deviations_for(false_alarms: float, n_latents: int) -> float:
    """The number of standard deviations that, of `n_latents` normal variables, `false_alarms` exceed on average."""
    return NormalDist().inv_cdf(1 - min(0.5, false_alarms / n_latents))


def stagewise(
    x: Float[Tensor, "rows d_in"],
    W: Float[Tensor, "n_latents d_in"],
    n_sd: float,
    rounds: int,
    k: int,
    start: Float[Tensor, "rows n_latents"] | None = None,
) -> SupportCodes:
    """The codes of every sample over unit (or zero) rows `W`; `k` limits the size of a support.

    `start` are codes whose positive entries, at most the `k` largest of a sample, are fitted and tested before the
    first round; with no rounds this prunes them. Memory is bounded by blocks of samples.
    """
    k = max(1, min(k, len(W), x.shape[1] - 1))
    gram = W @ W.T if len(W) <= 2 * x.shape[1] else None
    at_once = max(1, CELLS_AT_ONCE // max(len(W), k * x.shape[1]))
    pieces = [
        _block(x[at : at + at_once], W, gram, n_sd, rounds, k, None if start is None else start[at : at + at_once])
        for at in range(0, len(x), at_once)
    ] or [_block(x, W, gram, n_sd, 0, k, None)]
    return SupportCodes(*(torch.cat(parts) for parts in zip(*pieces, strict=True)))


def _block(
    x: Tensor, W: Tensor, gram: Tensor | None, n_sd: float, rounds: int, k: int, start: Tensor | None
) -> SupportCodes:
    found = SupportCodes(torch.zeros(len(x), k, dtype=torch.int64, device=x.device), x.new_zeros(len(x), k), x)
    if start is not None:
        found = _fitted(x, W, gram, start, torch.zeros_like(x[:, 0]), n_sd, k)
    for _ in range(rounds):
        u = found.residual @ W.T
        u.scatter_add_(1, found.latent, found.code)
        gate = n_sd / x.shape[1] ** 0.5 * found.residual.norm(dim=1)
        gate = torch.minimum(gate, WEAK * u.amax(1))
        found = _fitted(x, W, gram, u, torch.maximum(gate, FLOOR * x.norm(dim=1)), n_sd, k)
    return found


def _fitted(x: Tensor, W: Tensor, gram: Tensor | None, u: Tensor, gate: Tensor, n_sd: float, k: int) -> SupportCodes:
    """Fits the latents with `u` above the `gate` of their sample, the `k` largest, and removes those that fail."""
    if x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64) and HAS_NUMBA:
        from sae.numerics.stagewise_loops import fit_supports

        latent, code = torch.zeros(len(x), k, dtype=torch.int64), x.new_zeros(len(x), k)
        residual = torch.empty_like(x)
        fit_supports(x, W, gram, u, gate, n_sd, latent, code, residual)
        return SupportCodes(latent, code, residual)
    largest = torch.where(u > gate[:, None], u, 0).topk(k, dim=1)
    return fit_by_products(x, W, largest.indices, largest.values > 0, n_sd)


def refit(x: Float[Tensor, "rows d_in"], W: Float[Tensor, "n_latents d_in"], found: SupportCodes) -> SupportCodes:
    """The same codes, as a differentiable function of the samples and the directions for a fixed support."""
    rows, inside = W[found.latent], found.code > 0
    along = torch.where(inside, (rows @ x[:, :, None])[..., 0], 0)
    code = torch.linalg.solve(_of_support(rows @ rows.mT, inside), along[..., None])[..., 0]
    code = torch.where(inside, code, 0)
    return SupportCodes(found.latent, code, x - (code[:, None, :] @ rows)[:, 0])


def fit_by_products(
    x: Float[Tensor, "rows d_in"],
    W: Float[Tensor, "n_latents d_in"],
    latent: Int[Tensor, "rows k"],
    inside: Bool[Tensor, "rows k"],
    n_sd: float,
) -> SupportCodes:
    """Least squares over the latents that are `inside`, of which those that fail their test are removed."""
    rows = W[latent]
    gram, along = rows @ rows.mT, (rows @ x[:, :, None])[..., 0]
    power, floor = x.square().sum(1), FLOOR * x.norm(dim=1)
    code = torch.zeros_like(along)
    for _ in range(PASSES):
        inverse = torch.linalg.inv(_of_support(gram, inside))
        code = torch.where(inside, (inverse @ torch.where(inside, along, 0)[..., None])[..., 0], 0)
        error = (power - (code * along).sum(1)).clamp_min(0)
        freedom = (x.shape[1] - inside.sum(1)).clamp_min(1)
        limit = torch.maximum(n_sd * (error / freedom).sqrt(), floor)[:, None]
        statistic = code / inverse.diagonal(dim1=1, dim2=2).clamp_min(1e-12).sqrt()
        deficit = torch.where(inside, limit - statistic, -torch.inf)
        failing = (deficit > 0) & (deficit >= deficit.amax(1, keepdim=True) / 2)
        if not bool(failing.any()):
            break
        place = torch.arange(latent.shape[1], device=x.device)
        before = (deficit[:, None, :] > deficit[:, :, None]) | (
            (deficit[:, None, :] == deficit[:, :, None]) & (place[None, :] < place[:, None])
        )
        waits = (before & failing[:, None, :] & (gram > ALIKE)).any(2)
        inside = inside & ~(failing & ~waits)
    code = torch.where(inside, code, 0).clamp_min(0)
    residual = x - (code[:, None, :] @ rows)[:, 0]
    return SupportCodes(torch.where(code > 0, latent, 0), code, residual)


def _of_support(gram: Float[Tensor, "rows k k"], inside: Bool[Tensor, "rows k"]) -> Float[Tensor, "rows k k"]:
    """The inner products of the latents that are `inside`, with the identity for the others, so that it is
    invertible."""
    both = inside[:, :, None] & inside[:, None, :]
    return torch.where(both, gram, 0) + torch.diag_embed(torch.where(inside, JITTER, 1.0).to(gram))
