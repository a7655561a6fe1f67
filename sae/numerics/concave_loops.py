"""Compiled loops of :mod:`sae.numerics.concave_coding`: coordinate descent over the codes of one row at a time."""

# pyright: reportUntypedFunctionDecorator=false

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sae.numerics.numba_jit import compiled

_Array = NDArray[Any]


def _rows(
    along: _Array,
    gram: _Array,
    z: _Array,
    threshold: float,
    flat: float,
    shrink: float,
    sweeps: int,
    settled: float,
) -> None:
    n, m = along.shape
    low, top, gain = np.float32(threshold), np.float32(flat), np.float32(shrink)
    zero, least = np.float32(0), np.float32(settled * threshold)
    for i in range(n):
        left, codes = along[i], z[i]
        for j in range(m):
            if codes[j] != zero:
                for k in range(m):
                    left[k] -= codes[j] * gram[j, k]
        for _ in range(sweeps):
            change = zero
            for j in range(m):
                u = left[j] + codes[j]
                size = abs(u)
                if size <= low:
                    new = zero
                elif size > top:
                    new = u
                else:
                    new = (size - low) * gain if u > zero else (low - size) * gain
                moved = new - codes[j]
                if moved != zero:
                    codes[j] = new
                    for k in range(m):
                        left[k] -= moved * gram[j, k]
                    change = max(change, abs(moved))
            if change < least:
                break


def _sphere(W: _Array, second: _Array, cross: _Array, passes: int) -> None:
    n, d = W.shape
    moved = np.empty(d, W.dtype)
    for _ in range(passes):
        for j in range(n):
            if second[j, j] <= 0:
                continue
            for q in range(d):
                moved[q] = second[j, j] * W[j, q] + cross[j, q]
            for k in range(n):
                if second[j, k] != 0:
                    for q in range(d):
                        moved[q] -= second[j, k] * W[k, q]
            norm = 0.0
            for q in range(d):
                norm += moved[q] * moved[q]
            norm = np.sqrt(norm)
            if norm > 1e-12:
                for q in range(d):
                    W[j, q] = moved[q] / norm


_FREE = {"reassoc", "contract", "nsz", "arcp"}
"""Sums may be ordered as the compiler likes; infinities and NaN keep their meaning."""
descend_rows: Any = compiled(_rows, _FREE)
descend_sphere: Any = compiled(_sphere, _FREE)
