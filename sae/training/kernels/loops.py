"""The loops of the kernels for a CPU, compiled by numba.

They take arrays and nothing else, so that each is compiled once for a precision and kept on disk.
"""

# pyright: basic, reportCallIssue=false, reportArgumentType=false

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numba import prange, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from sae.numerics import numba_jit as jit

Array = NDArray[Any]

# Sums may be reordered and fused to fill vector registers; NaN and infinities keep their meaning.
FAST = {"contract", "reassoc", "nsz"}
PARTS = 8
"""Pieces into which the counting sort cuts the rows."""


inlined = partial(jit.inlined, fastmath=FAST)
threaded = partial(jit.threaded, fastmath=FAST)


@intrinsic
def bits_of(typing: Any, value: Any) -> Any:
    """The bits of a float32."""
    return types.uint32(types.float32), lambda ctx, b, sig, args: b.bitcast(args[0], ctx.get_value_type(types.uint32))


@intrinsic
def widened(typing: Any, word: Any) -> Any:
    """A bfloat16, given by its bits, as a float32."""

    def generate(ctx: Any, builder: Any, sig: Any, args: Any) -> Any:
        whole = ctx.get_value_type(types.uint32)
        bits = builder.shl(builder.zext(args[0], whole), whole(16))
        return builder.bitcast(bits, ctx.get_value_type(types.float32))

    return types.float32(types.uint16), generate


@intrinsic
def count_ones(typing: Any, word: Any) -> Any:
    """The number of bits that are set."""

    def generate(ctx: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.call(builder.module.declare_intrinsic("llvm.ctpop", [args[0].type]), args)

    return types.int64(types.uint64), generate


@inlined
def lowest(word: int) -> int:
    """The place of the lowest bit that is set."""
    return count_ones((word & (~word + np.uint64(1))) - np.uint64(1))


# Slices of 64 are taken first, because an index that is a sum must be checked for being negative, and a loop
# with such checks does not fill vector registers: it takes nine times as long.
@threaded
def find(pre: Array, offset: Array, per: int, floor: Array, latent: Array, value: Array, count: Array) -> None:
    """The entries of ``pre + offset`` above each row's `floor`, `per` rows to a member."""
    rows, n_latents = pre.shape
    whole = n_latents - n_latents % 64
    for b in prange(rows):
        to_latent, to_value, own, least, n = latent[b], value[b], offset[b // per], floor[b % per], 0
        for j in range(0, whole, 64):
            row, off = pre[b, j : j + 64], own[j : j + 64]
            active = np.uint64(0)
            for i in range(64):
                active |= np.uint64(row[i] + off[i] > least) << np.uint64(i)
            while active:
                k = lowest(active)
                to_latent[n], to_value[n] = j + k, row[k] + off[k]
                n += 1
                active &= active - np.uint64(1)
        for k in range(whole, n_latents):
            if pre[b, k] + own[k] > least:
                to_latent[n], to_value[n] = k, pre[b, k] + own[k]
                n += 1
        count[b] = n


@threaded
def find_rounded(
    words: Array,
    offset: Array,
    per: int,
    floor: Array,
    by_norm: Array,
    by_error: Array,
    norm: Array,
    error: Array,
    share: float,
    latent: Array,
    value: Array,
    count: Array,
) -> None:
    """The entries of ``pre + offset`` that may lie above the row's `floor`; `pre` is bfloat16, its error is bounded by
    ``by_norm norm + by_error error + share |pre|``."""
    rows, n_latents = words.shape
    whole = n_latents - n_latents % 64
    for b in prange(rows):
        s, u, w, least = b // per, by_norm[b % per], by_error[b % per], floor[b % per]
        to_latent, to_value, n = latent[b], value[b], 0
        own, sizes, misses = offset[s], norm[s], error[s]
        for j in range(0, whole, 64):
            row, off, size, miss = words[b, j : j + 64], own[j : j + 64], sizes[j : j + 64], misses[j : j + 64]
            active = np.uint64(0)
            for i in range(64):
                y = widened(row[i])
                most = y + max(y, -y) * share + u * size[i] + w * miss[i] + off[i]
                active |= np.uint64(most > least) << np.uint64(i)
            while active:
                k = lowest(active)
                to_latent[n], to_value[n] = j + k, widened(row[k]) + off[k]
                n += 1
                active &= active - np.uint64(1)
        for k in range(whole, n_latents):
            y = widened(words[b, k])
            if y + max(y, -y) * share + u * sizes[k] + w * misses[k] + own[k] > least:
                to_latent[n], to_value[n] = k, y + own[k]
                n += 1
        count[b] = n


@inlined
def four_products(v: Array, w0: Array, w1: Array, w2: Array, w3: Array) -> tuple[float, float, float, float]:
    s0 = s1 = s2 = s3 = v.dtype.type(0)
    for i in range(v.shape[0]):
        s0 += v[i] * w0[i]
        s1 += v[i] * w1[i]
        s2 += v[i] * w2[i]
        s3 += v[i] * w3[i]
    return s0, s1, s2, s3


@inlined
def products(v: Array, rows: Array, index: Array, out: Array) -> None:
    """``out[p] = v . rows[index[p]]``. The last few are done four at a time too, so that a product is the same
    sequence of sums wherever it stands."""
    n = index.shape[0]
    for p in range(0, n, 4):
        a, b, c = min(p + 1, n - 1), min(p + 2, n - 1), min(p + 3, n - 1)
        s0, s1, s2, s3 = four_products(v, rows[index[p]], rows[index[a]], rows[index[b]], rows[index[c]])
        out[c], out[b], out[a], out[p] = s3, s2, s1, s0


@threaded
def exactly(x: Array, W_enc: Array, offset: Array, floor: Array, latent: Array, value: Array, count: Array) -> None:
    """Computes the candidates in full and keeps those above the row's `floor`."""
    per = x.shape[0]
    for b in prange(count.shape[0]):
        candidates, s = count[b], b // per
        products(x[b % per], W_enc[s], latent[b, :candidates], value[b])
        n = 0
        for p in range(candidates):
            y = value[b, p] + offset[s, latent[b, p]]
            if y > floor[b % per]:
                latent[b, n], value[b, n] = latent[b, p], y
                n += 1
        count[b] = n


@threaded
def keep_largest(latent: Array, value: Array, count: Array, k: int, least: Array) -> None:
    """The `k` largest of each row, in place and in their order, equal ones from the left; `least` is the smallest
    that is kept, zero where there are fewer than `k`."""
    for b in prange(count.shape[0]):
        least[b] = 0
        if count[b] >= k:
            row = value[b, : count[b]]
            bar = np.partition(row, count[b] - k)[count[b] - k]
            least[b] = bar
            equal = k
            for p in range(count[b]):
                equal -= row[p] > bar
            n = 0
            for p in range(count[b]):
                if row[p] > bar or (row[p] == bar and equal > 0):
                    equal -= row[p] == bar
                    latent[b, n], value[b, n] = latent[b, p], row[p]
                    n += 1
            count[b] = n


@threaded
def collect(
    latent: Array,
    value: Array,
    start: Array,
    first: int,
    n_latents: int,
    per: int,
    to_latent: Array,
    to_value: Array,
) -> None:
    """What was found in a block, packed; latents are numbered through from `first`."""
    for b in prange(latent.shape[0]):
        number = first + b // per * n_latents
        for p in range(start[b + 1] - start[b]):
            to_latent[start[b] + p] = number + latent[b, p]
            to_value[start[b] + p] = value[b, p]


@inlined
def add_rows(out: Array, weight: Array, rows: Array, index: Array, first: int) -> None:
    """``out += sum_p weight[p] rows[index[p] - first]``, four at a time."""
    n = index.shape[0]
    whole = n - n % 4
    for p in range(0, whole, 4):
        a, b, c, d = weight[p], weight[p + 1], weight[p + 2], weight[p + 3]
        r, s = rows[index[p] - first], rows[index[p + 1] - first]
        t, u = rows[index[p + 2] - first], rows[index[p + 3] - first]
        for i in range(out.shape[0]):
            out[i] += a * r[i] + b * s[i] + c * t[i] + d * u[i]
    for p in range(whole, n):
        a, r = weight[p], rows[index[p] - first]
        for i in range(out.shape[0]):
            out[i] += a * r[i]


@threaded
def decode(
    start: Array, latent: Array, value: Array, W_dec: Array, b_dec: Array, x: Array, residual: Array, grad: Array
) -> None:
    per = x.shape[0]
    for b in prange(residual.shape[0]):
        pairs = slice(start[b], start[b + 1])
        r, centre, target = residual[b], b_dec[b // per], x[b % per]
        for i in range(r.shape[0]):
            r[i] = centre[i] - target[i]
        add_rows(r, value[pairs], W_dec, latent[pairs], 0)
        products(r, W_dec, latent[pairs], grad[pairs])


@threaded
def transpose(start: Array, latent: Array, by_start: Array, by_row: Array, by_pair: Array) -> None:
    """A counting sort by latent, stable, the rows in parts that are counted and placed side by side."""
    rows, n_latents = start.shape[0] - 1, by_start.shape[0] - 1
    place = np.zeros((PARTS, n_latents), np.int64)
    for part in prange(PARTS):
        for p in range(start[rows * part // PARTS], start[rows * (part + 1) // PARTS]):
            place[part, latent[p]] += 1
    total = 0
    for j in range(n_latents):
        by_start[j] = total
        for part in range(PARTS):
            here = place[part, j]
            place[part, j] = total
            total += here
    by_start[n_latents] = total
    for part in prange(PARTS):
        for b in range(rows * part // PARTS, rows * (part + 1) // PARTS):
            for p in range(start[b], start[b + 1]):
                q = place[part, latent[p]]
                place[part, latent[p]] = q + 1
                by_row[q] = b
                by_pair[q] = p


@threaded
def sums(by_start: Array, pair: Array, values: Array, total: Array) -> None:
    for j in prange(total.shape[0]):
        s = values.dtype.type(0)
        for q in range(by_start[j], by_start[j + 1]):
            s += values[pair[q]]
        total[j] = s


@inlined
def gradient_of(
    j: int,
    by_start: Array,
    row: Array,
    pair: Array,
    z: Array,
    g: Array,
    residual: Array,
    x: Array,
    b_dec: Array,
    W_dec: Array,
    along: Array,
    scale: float,
    to_enc: Array,
    to_dec: Array,
) -> float:
    """The gradient of latent j's rows, and that of its bias."""
    member = j * b_dec.shape[0] // W_dec.shape[0]
    centre = b_dec[member]
    here = slice(by_start[j], by_start[j + 1])
    pairs, rows = pair[here], row[here]
    to_enc[:] = 0
    to_dec[:] = 0
    g_sum = scale - scale
    if pairs.shape[0]:
        weight = z[pairs]
        add_rows(to_dec, weight, residual, rows, 0)
        weight = g[pairs]
        add_rows(to_enc, weight, x, rows, member * x.shape[0])
        for q in range(pairs.shape[0]):
            g_sum += weight[q]
    own = along[j] if along.shape[0] else scale - scale
    for i in range(to_dec.shape[0]):
        to_dec[i] = scale * to_dec[i] + own * W_dec[j, i]
        to_enc[i] = scale * (to_enc[i] - g_sum * centre[i])
    return scale * g_sum


@threaded
def gradients(
    by_start: Array,
    row: Array,
    pair: Array,
    z: Array,
    g: Array,
    residual: Array,
    x: Array,
    b_dec: Array,
    W_dec: Array,
    along: Array,
    scale: float,
    to_enc: Array,
    to_dec: Array,
    to_bias: Array,
) -> None:
    for j in prange(to_bias.shape[0]):
        to_bias[j] = gradient_of(
            j, by_start, row, pair, z, g, residual, x, b_dec, W_dec, along, scale, to_enc[j], to_dec[j]
        )


@inlined
def adam_row(p: Array, m: Array, v: Array, gradient: Array, hyper: tuple[float, ...]) -> None:
    step_size, root, beta1, new1, beta2, new2, eps = hyper
    for i in range(p.shape[0]):
        m[i] = beta1 * m[i] + new1 * gradient[i]
        v[i] = beta2 * v[i] + new2 * gradient[i] * gradient[i]
        p[i] -= step_size * m[i] / (np.sqrt(v[i]) * root + eps)


@inlined
def descend_one(
    j: int,
    W_enc: Array,
    W_dec: Array,
    b_enc: Array,
    m_enc: Array,
    m_dec: Array,
    m_bias: Array,
    v_enc: Array,
    v_dec: Array,
    v_bias: Array,
    to_enc: Array,
    to_dec: Array,
    to_bias: Array,
    hyper: tuple[float, ...],
    unit_rows: bool,
    short: Array,
    norm: Array,
    error: Array,
) -> None:
    """One step of Adam for latent j, whose gradients are ``to_enc``, ``to_dec`` and the one entry of ``to_bias``."""
    w = W_dec[j]
    if unit_rows:
        along = b_enc.dtype.type(0)
        for i in range(w.shape[0]):
            along += to_dec[i] * w[i]
        for i in range(w.shape[0]):
            to_dec[i] -= along * w[i]
    adam_row(w, m_dec[j], v_dec[j], to_dec, hyper)
    adam_row(W_enc[j], m_enc[j], v_enc[j], to_enc, hyper)
    adam_row(b_enc[j : j + 1], m_bias[j : j + 1], v_bias[j : j + 1], to_bias, hyper)
    if unit_rows:
        square = b_enc.dtype.type(0)
        for i in range(w.shape[0]):
            square += w[i] * w[i]
        length = max(np.sqrt(square), b_enc.dtype.type(1e-12))
        for i in range(w.shape[0]):
            w[i] /= length
    if short.shape[0]:
        norm[j], error[j] = rounded_row(W_enc[j], short[j])


@inlined
def rounded_row(w: Array, short: Array) -> tuple[float, float]:
    """Rounds a row to bfloat16, to the nearest and halves to even; the norms of the row and of the error."""
    norm = error = np.float32(0)
    for i in range(w.shape[0]):
        bits = bits_of(np.float32(w[i]))
        bits = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
        short[i] = bits
        difference = np.float32(w[i]) - widened(np.uint16(bits))
        norm += np.float32(w[i]) * np.float32(w[i])
        error += difference * difference
    return np.sqrt(norm), np.sqrt(error)


@threaded
def descend(
    W_enc: Array,
    W_dec: Array,
    b_enc: Array,
    m_enc: Array,
    m_dec: Array,
    m_bias: Array,
    v_enc: Array,
    v_dec: Array,
    v_bias: Array,
    to_enc: Array,
    to_dec: Array,
    to_bias: Array,
    hyper: tuple[float, ...],
    unit_rows: bool,
    short: Array,
    norm: Array,
    error: Array,
) -> None:
    for j in prange(b_enc.shape[0]):
        descend_one(
            j,
            W_enc,
            W_dec,
            b_enc,
            m_enc,
            m_dec,
            m_bias,
            v_enc,
            v_dec,
            v_bias,
            to_enc[j],
            to_dec[j],
            to_bias[j : j + 1],
            hyper,
            unit_rows,
            short,
            norm,
            error,
        )


@threaded
def update(
    by_start: Array,
    row: Array,
    pair: Array,
    z: Array,
    g: Array,
    residual: Array,
    x: Array,
    b_dec: Array,
    old_dec: Array,
    along: Array,
    scale: float,
    W_enc: Array,
    W_dec: Array,
    b_enc: Array,
    m_enc: Array,
    m_dec: Array,
    m_bias: Array,
    v_enc: Array,
    v_dec: Array,
    v_bias: Array,
    hyper: tuple[float, ...],
    unit_rows: bool,
    short: Array,
    norm: Array,
    error: Array,
) -> None:
    n_latents, d_in = W_dec.shape
    for j in prange(n_latents):
        to_enc, to_dec = np.empty(d_in, W_dec.dtype), np.empty(d_in, W_dec.dtype)
        to_bias = np.empty(1, W_dec.dtype)
        to_bias[0] = gradient_of(
            j, by_start, row, pair, z, g, residual, x, b_dec, old_dec, along, scale, to_enc, to_dec
        )
        descend_one(
            j,
            W_enc,
            W_dec,
            b_enc,
            m_enc,
            m_dec,
            m_bias,
            v_enc,
            v_dec,
            v_bias,
            to_enc,
            to_dec,
            to_bias,
            hyper,
            unit_rows,
            short,
            norm,
            error,
        )
