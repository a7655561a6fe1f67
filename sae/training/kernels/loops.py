"""The loops of the kernels for a CPU, compiled by numba.

They take only arrays and numbers, so that each is compiled once per precision and cached on disk.
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

_Array = NDArray[Any]

# Sums may be reordered and fused to fill vector registers; NaN and infinities keep their meaning.
FAST = {"contract", "reassoc", "nsz"}
_PARTS = 8
"""The number of pieces into which the counting sort divides the rows."""


_inlined = partial(jit.inlined, fastmath=FAST)
_threaded = partial(jit.threaded, fastmath=FAST)


@intrinsic
def _bits_of(typing: Any, value: Any) -> Any:
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


@_inlined
def lowest(word: int) -> int:
    """The index of the lowest bit that is set."""
    return count_ones((word & (~word + np.uint64(1))) - np.uint64(1))


# Slices of 64 are taken first: an index that is a sum must be checked for being negative, and a loop with such checks
# is not vectorised and takes nine times as long.
@_threaded
def find_active(
    pre: _Array, offset: _Array, per: int, floor: _Array, latent: _Array, value: _Array, count: _Array
) -> None:
    """The entries of ``pre + offset`` above each row's `floor`; each member has `per` rows."""
    rows, n_latents = pre.shape
    whole = n_latents - n_latents % 64
    for b in prange(rows):
        to_latent, to_value, offsets, least, n = latent[b], value[b], offset[b // per], floor[b % per], 0
        for j in range(0, whole, 64):
            row, off = pre[b, j : j + 64], offsets[j : j + 64]
            active = np.uint64(0)
            for i in range(64):
                active |= np.uint64(row[i] + off[i] > least) << np.uint64(i)
            while active:
                k = lowest(active)
                to_latent[n], to_value[n] = j + k, row[k] + off[k]
                n += 1
                active &= active - np.uint64(1)
        for k in range(whole, n_latents):
            if pre[b, k] + offsets[k] > least:
                to_latent[n], to_value[n] = k, pre[b, k] + offsets[k]
                n += 1
        count[b] = n


@_threaded
def find_rounded(
    words: _Array,
    offset: _Array,
    per: int,
    floor: _Array,
    by_norm: _Array,
    by_error: _Array,
    norm: _Array,
    error: _Array,
    share: float,
    latent: _Array,
    value: _Array,
    count: _Array,
) -> None:
    """The entries of ``pre + offset`` that may exceed the row's `floor`. The error of `pre`, in bfloat16, is at most
    ``by_norm norm + by_error error + share |pre|``."""
    rows, n_latents = words.shape
    whole = n_latents - n_latents % 64
    for b in prange(rows):
        s, u, w, least = b // per, by_norm[b % per], by_error[b % per], floor[b % per]
        to_latent, to_value, n = latent[b], value[b], 0
        offsets, sizes, misses = offset[s], norm[s], error[s]
        for j in range(0, whole, 64):
            row, off, size, miss = words[b, j : j + 64], offsets[j : j + 64], sizes[j : j + 64], misses[j : j + 64]
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
            if y + max(y, -y) * share + u * sizes[k] + w * misses[k] + offsets[k] > least:
                to_latent[n], to_value[n] = k, y + offsets[k]
                n += 1
        count[b] = n


@_inlined
def four_products(v: _Array, w0: _Array, w1: _Array, w2: _Array, w3: _Array) -> tuple[float, float, float, float]:
    s0 = s1 = s2 = s3 = v.dtype.type(0)
    for i in range(v.shape[0]):
        s0 += v[i] * w0[i]
        s1 += v[i] * w1[i]
        s2 += v[i] * w2[i]
        s3 += v[i] * w3[i]
    return s0, s1, s2, s3


@_inlined
def products(v: _Array, rows: _Array, index: _Array, out: _Array) -> None:
    """``out[p] = v . rows[index[p]]``. The remainder is computed four at a time too, so that each product is the same
    sequence of sums wherever it stands."""
    n = index.shape[0]
    for p in range(0, n, 4):
        a, b, c = min(p + 1, n - 1), min(p + 2, n - 1), min(p + 3, n - 1)
        s0, s1, s2, s3 = four_products(v, rows[index[p]], rows[index[a]], rows[index[b]], rows[index[c]])
        out[c], out[b], out[a], out[p] = s3, s2, s1, s0


@_threaded
def exactly(
    x: _Array, W_enc: _Array, offset: _Array, floor: _Array, latent: _Array, value: _Array, count: _Array
) -> None:
    """Computes the codes of the latents found in full precision and keeps those above the row's `floor`."""
    per = x.shape[0]
    for b in prange(count.shape[0]):
        found, s = count[b], b // per
        products(x[b % per], W_enc[s], latent[b, :found], value[b])
        n = 0
        for p in range(found):
            y = value[b, p] + offset[s, latent[b, p]]
            if y > floor[b % per]:
                latent[b, n], value[b, n] = latent[b, p], y
                n += 1
        count[b] = n


@_threaded
def keep_largest(latent: _Array, value: _Array, count: _Array, k: int, least: _Array) -> None:
    """Keeps the `k` largest of each row, in place and in order; of equal codes, the leftmost. `least` is the smallest
    code kept, zero where a row has fewer than `k`."""
    for b in prange(count.shape[0]):
        least[b] = 0
        if count[b] >= k:
            row = value[b, : count[b]]
            threshold = np.partition(row, count[b] - k)[count[b] - k]
            least[b] = threshold
            equal = k
            for p in range(count[b]):
                equal -= row[p] > threshold
            n = 0
            for p in range(count[b]):
                if row[p] > threshold or (row[p] == threshold and equal > 0):
                    equal -= row[p] == threshold
                    latent[b, n], value[b, n] = latent[b, p], row[p]
                    n += 1
            count[b] = n


@_threaded
def collect(
    latent: _Array,
    value: _Array,
    start: _Array,
    first: int,
    n_latents: int,
    per: int,
    to_latent: _Array,
    to_value: _Array,
) -> None:
    """Packs the codes of a block; its latents are numbered across members, from `first`."""
    for b in prange(latent.shape[0]):
        before = first + b // per * n_latents
        for p in range(start[b + 1] - start[b]):
            to_latent[start[b] + p] = before + latent[b, p]
            to_value[start[b] + p] = value[b, p]


@_inlined
def add_rows(out: _Array, weight: _Array, rows: _Array, index: _Array, first: int) -> None:
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


@_inlined
def _reconstruct_row(r: _Array, centre: _Array, target: _Array, value: _Array, W_dec: _Array, latent: _Array) -> None:
    """``r = centre - target + sum_p value[p] W_dec[latent[p]]``."""
    for i in range(r.shape[0]):
        r[i] = centre[i] - target[i]
    add_rows(r, value, W_dec, latent, 0)


@_threaded
def decode(
    start: _Array,
    latent: _Array,
    value: _Array,
    W_dec: _Array,
    b_dec: _Array,
    x: _Array,
    residual: _Array,
    grad: _Array,
) -> None:
    per = x.shape[0]
    for b in prange(residual.shape[0]):
        pairs = slice(start[b], start[b + 1])
        _reconstruct_row(residual[b], b_dec[b // per], x[b % per], value[pairs], W_dec, latent[pairs])
        products(residual[b], W_dec, latent[pairs], grad[pairs])


@_threaded
def reconstruct(
    start: _Array, latent: _Array, value: _Array, W_dec: _Array, b_dec: _Array, x: _Array, residual: _Array
) -> None:
    """:func:`decode` without the products."""
    per = x.shape[0]
    for b in prange(residual.shape[0]):
        pairs = slice(start[b], start[b + 1])
        _reconstruct_row(residual[b], b_dec[b // per], x[b % per], value[pairs], W_dec, latent[pairs])


@_threaded
def along_decoder(start: _Array, latent: _Array, W_dec: _Array, residual: _Array, grad: _Array) -> None:
    """The products of :func:`decode` alone."""
    for b in prange(residual.shape[0]):
        pairs = slice(start[b], start[b + 1])
        products(residual[b], W_dec, latent[pairs], grad[pairs])


@_threaded
def transpose(start: _Array, latent: _Array, by_start: _Array, by_row: _Array, by_pair: _Array) -> None:
    """A stable counting sort by latent; parts of the rows are counted and placed in parallel."""
    rows, n_latents = start.shape[0] - 1, by_start.shape[0] - 1
    place = np.zeros((_PARTS, n_latents), np.int64)
    for part in prange(_PARTS):
        for p in range(start[rows * part // _PARTS], start[rows * (part + 1) // _PARTS]):
            place[part, latent[p]] += 1
    total = 0
    for j in range(n_latents):
        by_start[j] = total
        for part in range(_PARTS):
            here = place[part, j]
            place[part, j] = total
            total += here
    by_start[n_latents] = total
    for part in prange(_PARTS):
        for b in range(rows * part // _PARTS, rows * (part + 1) // _PARTS):
            for p in range(start[b], start[b + 1]):
                q = place[part, latent[p]]
                place[part, latent[p]] = q + 1
                by_row[q] = b
                by_pair[q] = p


@_threaded
def sums(by_start: _Array, pair: _Array, values: _Array, total: _Array) -> None:
    for j in prange(total.shape[0]):
        s = values.dtype.type(0)
        for q in range(by_start[j], by_start[j + 1]):
            s += values[pair[q]]
        total[j] = s


@_inlined
def _gradient_of(
    j: int,
    by_start: _Array,
    row: _Array,
    pair: _Array,
    z: _Array,
    g: _Array,
    residual: _Array,
    x: _Array,
    b_dec: _Array,
    W_dec: _Array,
    along: _Array,
    scale: float,
    to_enc: _Array,
    to_dec: _Array,
) -> float:
    """Writes the gradients of latent j's rows and returns that of its bias."""
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
    along_row = along[j] if along.shape[0] else scale - scale
    for i in range(to_dec.shape[0]):
        to_dec[i] = scale * to_dec[i] + along_row * W_dec[j, i]
        to_enc[i] = scale * (to_enc[i] - g_sum * centre[i])
    return scale * g_sum


@_threaded
def gradients(
    by_start: _Array,
    row: _Array,
    pair: _Array,
    z: _Array,
    g: _Array,
    residual: _Array,
    x: _Array,
    b_dec: _Array,
    W_dec: _Array,
    along: _Array,
    scale: float,
    to_enc: _Array,
    to_dec: _Array,
    to_bias: _Array,
) -> None:
    for j in prange(to_bias.shape[0]):
        to_bias[j] = _gradient_of(
            j, by_start, row, pair, z, g, residual, x, b_dec, W_dec, along, scale, to_enc[j], to_dec[j]
        )


@_inlined
def adam_row(p: _Array, m: _Array, v: _Array, gradient: _Array, hyper: tuple[float, ...]) -> None:
    step_size, root, beta1, new1, beta2, new2, eps = hyper
    for i in range(p.shape[0]):
        m[i] = beta1 * m[i] + new1 * gradient[i]
        v[i] = beta2 * v[i] + new2 * gradient[i] * gradient[i]
        p[i] -= step_size * m[i] / (np.sqrt(v[i]) * root + eps)


@_inlined
def _descend_one(
    j: int,
    W_enc: _Array,
    W_dec: _Array,
    b_enc: _Array,
    m_enc: _Array,
    m_dec: _Array,
    m_bias: _Array,
    v_enc: _Array,
    v_dec: _Array,
    v_bias: _Array,
    to_enc: _Array,
    to_dec: _Array,
    to_bias: _Array,
    hyper: tuple[float, ...],
    unit_rows: bool,
    short: _Array,
    norm: _Array,
    error: _Array,
) -> None:
    """One step of Adam for latent j, with gradients `to_enc`, `to_dec` and the one entry of `to_bias`."""
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


@_inlined
def rounded_row(w: _Array, short: _Array) -> tuple[float, float]:
    """Rounds a row to bfloat16, to the nearest and halves to even; returns the norms of the row and of the error."""
    norm = error = np.float32(0)
    for i in range(w.shape[0]):
        bits = _bits_of(np.float32(w[i]))
        bits = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
        short[i] = bits
        difference = np.float32(w[i]) - widened(np.uint16(bits))
        norm += np.float32(w[i]) * np.float32(w[i])
        error += difference * difference
    return np.sqrt(norm), np.sqrt(error)


@_threaded
def descend(
    W_enc: _Array,
    W_dec: _Array,
    b_enc: _Array,
    m_enc: _Array,
    m_dec: _Array,
    m_bias: _Array,
    v_enc: _Array,
    v_dec: _Array,
    v_bias: _Array,
    to_enc: _Array,
    to_dec: _Array,
    to_bias: _Array,
    hyper: tuple[float, ...],
    unit_rows: bool,
    short: _Array,
    norm: _Array,
    error: _Array,
) -> None:
    for j in prange(b_enc.shape[0]):
        _descend_one(
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


@_threaded
def update(
    by_start: _Array,
    row: _Array,
    pair: _Array,
    z: _Array,
    g: _Array,
    residual: _Array,
    x: _Array,
    b_dec: _Array,
    old_dec: _Array,
    along: _Array,
    scale: float,
    W_enc: _Array,
    W_dec: _Array,
    b_enc: _Array,
    m_enc: _Array,
    m_dec: _Array,
    m_bias: _Array,
    v_enc: _Array,
    v_dec: _Array,
    v_bias: _Array,
    hyper: tuple[float, ...],
    unit_rows: bool,
    short: _Array,
    norm: _Array,
    error: _Array,
) -> None:
    n_latents, d_in = W_dec.shape
    for j in prange(n_latents):
        to_enc, to_dec = np.empty(d_in, W_dec.dtype), np.empty(d_in, W_dec.dtype)
        to_bias = np.empty(1, W_dec.dtype)
        to_bias[0] = _gradient_of(
            j, by_start, row, pair, z, g, residual, x, b_dec, old_dec, along, scale, to_enc, to_dec
        )
        _descend_one(
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
