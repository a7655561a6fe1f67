"""Compiled loops of :mod:`sae.numerics.stagewise`: one sample at a time, its support in small arrays."""

# pyright: reportUntypedFunctionDecorator=false, reportPrivateUsage=false

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import prange
from numpy.typing import NDArray
from torch import Tensor

from sae.numerics.numba_jit import compiled, set_threads, threaded
from sae.numerics.stagewise import ALIKE, FLOOR, JITTER, PASSES

_Array = NDArray[Any]
_FREE = {"reassoc", "contract", "nsz", "arcp"}
"""Sums may be ordered as the compiler likes; infinities and NaN keep their meaning."""


def fit_supports(
    x: Tensor,
    W: Tensor,
    gram: Tensor | None,
    u: Tensor,
    gate: Tensor,
    n_sd: float,
    latent: Tensor,
    code: Tensor,
    residual: Tensor,
) -> None:
    """:func:`sae.numerics.stagewise.fit_by_products` of the latents with `u` above the `gate`; fills in the last
    three."""
    before = set_threads(torch.get_num_threads())
    inner = W.new_empty(0, 0) if gram is None else gram
    inputs = [t.detach().contiguous().numpy() for t in (x, W, inner, u, gate)]
    _fit(*inputs, n_sd, latent.numpy(), code.numpy(), residual.numpy())
    set_threads(before)


@compiled
def _largest(u: _Array, gate: float, latent: _Array, value: _Array) -> int:
    """The columns of `u` above the gate, the largest if there are too many; their number."""
    n, lowest = 0, 0
    for j in range(len(u)):
        if u[j] > gate and (n < len(latent) or u[j] > value[lowest]):
            at = n if n < len(latent) else lowest
            latent[at], value[at] = j, u[j]
            n = min(n + 1, len(latent))
            if n == len(latent):
                lowest = np.argmin(value)
    return n


@compiled
def _invert(a: _Array, lower: _Array, inverse: _Array, n: int) -> None:
    """``inverse = L^-1`` of ``a = L L^T``, whose diagonal keeps it positive."""
    for i in range(n):
        for j in range(i + 1):
            s = a[i, j]
            for p in range(j):
                s -= lower[i, p] * lower[j, p]
            lower[i, j] = np.sqrt(max(s, 1e-12)) if i == j else s / lower[j, j]
    for j in range(n):
        inverse[j, j] = 1 / lower[j, j]
        for i in range(j + 1, n):
            s = 0.0
            for p in range(j, i):
                s -= lower[i, p] * inverse[p, j]
            inverse[i, j] = s / lower[i, i]


def _product(a: Any, b: Any) -> Any:
    s = a[0] * b[0]
    for q in range(1, len(a)):
        s += a[q] * b[q]
    return s


_dot: Any = compiled(_product, _FREE)


@compiled
def _remove(deficit: _Array, gram: _Array, latent: _Array, n: int, removed: _Array) -> int:
    """Removes the latents that fail by at least half as much as the worst, one at a time where they are alike."""
    worst = 0.0
    for i in range(n):
        worst = max(worst, deficit[i])
    if worst <= 0:
        return n
    for i in range(n):
        removed[i] = deficit[i] >= worst / 2
    for i in range(n):
        if deficit[i] >= worst / 2:
            for j in range(n):
                earlier = deficit[j] > deficit[i] or (deficit[j] == deficit[i] and j < i)
                if earlier and deficit[j] >= worst / 2 and gram[max(i, j), min(i, j)] > ALIKE:
                    removed[i] = False
    kept = 0
    for i in range(n):
        if not removed[i]:
            latent[kept] = latent[i]
            kept += 1
    return kept


@threaded
def _fit(
    x: _Array,
    W: _Array,
    gram: _Array,
    u: _Array,
    gate: _Array,
    n_sd: float,
    latent: _Array,
    code: _Array,
    residual: _Array,
) -> None:
    k, d_in = latent.shape[1], x.shape[1]
    for row in prange(len(x)):
        chosen, value = np.empty(k, np.int64), np.empty(k, u.dtype)
        n = _largest(u[row], gate[row], chosen, value)
        a, lower, inverse = np.empty((k, k)), np.empty((k, k)), np.zeros((k, k))
        along, y, z, deficit = np.empty(k), np.empty(k), np.zeros(k), np.empty(k)
        removed = np.empty(k, np.bool_)
        power = float(_dot(x[row], x[row]))
        floor = FLOOR * np.sqrt(power)
        for step in range(PASSES):
            if n == 0:
                break
            for i in range(n):
                along[i] = _dot(W[chosen[i]], x[row])
                for j in range(i + 1):
                    a[i, j] = gram[chosen[i], chosen[j]] if len(gram) else _dot(W[chosen[i]], W[chosen[j]])
                a[i, i] += JITTER
            _invert(a, lower, inverse, n)
            error = power
            for i in range(n):
                y[i] = 0.0
                for p in range(i + 1):
                    y[i] += inverse[i, p] * along[p]
                error -= y[i] * y[i]
            limit = max(n_sd * np.sqrt(max(error, 0.0) / max(1, d_in - n)), floor)
            for i in range(n):
                z[i], variance = 0.0, 0.0
                for p in range(i, n):
                    z[i] += inverse[p, i] * y[p]
                    variance += inverse[p, i] * inverse[p, i]
                deficit[i] = limit - z[i] / np.sqrt(variance)
            if step == PASSES - 1:
                break
            left = _remove(deficit, a, chosen, n, removed)
            if left == n:
                break
            n = left
        residual[row] = x[row]
        filled = 0
        for i in range(n):
            if z[i] > 0:
                latent[row, filled], code[row, filled] = chosen[i], z[i]
                filled += 1
                for q in range(d_in):
                    residual[row, q] -= code[row, filled - 1] * W[chosen[i], q]
