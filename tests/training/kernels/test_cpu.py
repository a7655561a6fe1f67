"""The compiled kernels against the reference kernels."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sae.architecture import Largest, Positive
from sae.training.kernels import Adam, Codes, Latents, Rounded, SparseBackward, TrainedLatents
from sae.training.kernels.cpu import Numba
from sae.training.kernels.reference import Reference

REFERENCE = Reference()
CHECKOUT = Path(__file__).parents[2]


def weights(n_latents: int, d_in: int, dtype: torch.dtype, seed: int = 0) -> tuple[Latents, Tensor]:
    g = torch.Generator().manual_seed(seed)
    W_enc, W_dec = (torch.randn(n_latents, d_in, generator=g, dtype=dtype) for _ in range(2))
    b_enc = torch.randn(n_latents, generator=g, dtype=dtype) * 0.3 - d_in**0.5
    return Latents(W_enc, W_dec / W_dec.norm(dim=-1, keepdim=True), b_enc), torch.randn(
        1, d_in, generator=g, dtype=dtype
    )


def rows(batch: int, d_in: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(batch, d_in, generator=torch.Generator().manual_seed(5), dtype=dtype)


def trained(p: Latents, unit_rows: bool) -> TrainedLatents:
    """Copies of the latents with some moments."""
    parameters, m, v = (Latents(*(t.clone() + 0.1 * i for t in p)) for i in (0, 1, 2))
    return TrainedLatents(parameters, m, Latents(*(t.abs() for t in v)), unit_rows)


def same_codes(a: Codes, b: Codes, scale: float = 1.0) -> None:
    assert torch.equal(a.start, b.start) and torch.equal(a.latent, b.latent)
    torch.testing.assert_close(a.value, b.value, rtol=1e-5, atol=1e-5 * scale)


DTYPES = [torch.float32, torch.float64]
SELECTIONS = [Positive(), Largest(6), Largest(400)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("selection", SELECTIONS, ids=str)
@pytest.mark.parametrize(("batch", "n_latents"), [(300, 200), (5, 64), (1, 3), (130, 10_000)])
def test_encode(dtype: torch.dtype, selection: Positive | Largest, batch: int, n_latents: int):
    """300 rows of 10,000 latents are several blocks; the second call uses the guess of the first."""
    p, _ = weights(n_latents, 12, dtype)
    x, kernels = rows(batch, 12, dtype), Numba()
    if isinstance(selection, Largest) and selection.k > n_latents:
        selection = Largest(n_latents)
    for _ in range(2):
        same_codes(kernels.encode(x, p.W_enc, p.b_enc, selection), REFERENCE.encode(x, p.W_enc, p.b_enc, selection))


def test_rows_that_fall_short_of_the_guess_are_searched_again():
    p, _ = weights(500, 12, torch.float32)
    kernels, x = Numba(), rows(60, 12, torch.float32)
    kernels.encode(20 * x, p.W_enc, p.b_enc, Largest(6))
    assert kernels._floor > 0
    same_codes(kernels.encode(x, p.W_enc, p.b_enc, Largest(6)), REFERENCE.encode(x, p.W_enc, p.b_enc, Largest(6)))


def test_of_equal_codes_the_leftmost_are_kept():
    W_enc, x = torch.ones(6, 2), torch.ones(1, 2)
    codes = Numba().encode(x, W_enc, torch.tensor([0.0, 1, 0, 0, 1, 0]), Largest(4))
    assert codes.latent.tolist() == [0, 1, 2, 4] and codes.value.tolist() == [2, 3, 2, 3]


@pytest.mark.parametrize("selection", SELECTIONS, ids=str)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_the_screen_finds_every_code(selection: Positive | Largest, scale: float):
    p, _ = weights(1000, 40, torch.float32)
    x = scale * rows(200, 40, torch.float32)
    offset = p.b_enc * scale
    actual = Numba().encode(x, p.W_enc, offset, selection, Rounded.of(p.W_enc, exact=True))
    same_codes(actual, REFERENCE.encode(x, p.W_enc, offset, selection), scale)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.floats(-4, 4), st.integers(1, 90))
def test_the_screens_bound_holds(seed: int, log_scale: float, d_in: int):
    """The error of the rounded product, computed in float64, is within the documented bound."""
    g = torch.Generator().manual_seed(seed)
    scales = 10 ** (log_scale * torch.rand(50, 1, generator=g))
    W, x = torch.randn(50, d_in, generator=g) * scales, torch.randn(20, d_in, generator=g)
    rounded = Rounded.of(W, exact=True)
    short = x.bfloat16()
    product = (short @ rounded.W_enc.T).double()
    size, miss = x.norm(dim=-1, keepdim=True), (x - short).norm(dim=-1, keepdim=True)
    bound = (miss + d_in * 2.0**-22 * size) * rounded.norm + short.float().norm(dim=-1, keepdim=True) * rounded.error
    error = (product - x.double() @ W.double().T).abs()
    assert bool((error <= bound + product.abs() * 2.0**-8).all())


def test_a_plain_rounded_product_is_taken_as_it_is():
    p, _ = weights(300, 16, torch.float32)
    x, rounded = rows(50, 16, torch.float32), Rounded.of(p.W_enc, exact=False)
    actual = Numba().encode(x, p.W_enc, p.b_enc, Positive(), rounded)
    same_codes(actual, REFERENCE.encode(x, p.W_enc, p.b_enc, Positive(), rounded))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("batch", "n_latents", "d_in"), [(70, 150, 20), (9, 40, 3), (3, 2, 1)])
@pytest.mark.parametrize("unit_rows", [True, False])
def test_the_rest_of_the_step(dtype: torch.dtype, batch: int, n_latents: int, d_in: int, unit_rows: bool):
    p, b_dec = weights(n_latents, d_in, dtype)
    x, fast = rows(batch, d_in, dtype), Numba()
    codes = REFERENCE.encode(x, p.W_enc, p.b_enc + 1, Positive())
    along = None if unit_rows else p.b_enc
    ends = []
    for kernels in (REFERENCE, fast):
        residual = torch.empty_like(x)
        grad = kernels.decode(codes, p.W_dec, b_dec, x, residual)
        by = kernels.transpose(codes, n_latents)
        latents, adam = trained(p, unit_rows), Adam.at(3, 1e-2, 0.9, 0.99)
        if dtype == torch.float32:
            latents = latents._replace(rounded=Rounded.of(latents.parameters.W_enc, exact=True))
        backward = SparseBackward(
            by=by,
            z=codes.value,
            g=grad,
            residual=residual,
            x=x,
            centre=b_dec,
            W_dec=latents.parameters.W_dec,
            along=along,
            scale=2 / batch,
        )
        gradient = Latents(*(torch.empty_like(t) for t in p))
        kernels.gradients(backward, gradient)
        before = [t.clone() for t in gradient]
        kernels.update(latents, backward, adam)
        short = [] if latents.rounded is None else [latents.rounded.W_enc.float(), latents.rounded.norm]
        state = *latents.parameters, *latents.m, *latents.v
        ends.append([residual, grad, *by, kernels.sums(by, grad), *before, *state, *short])

        apart = trained(p, unit_rows)
        kernels.descend(apart, gradient, adam)
        for one, other in zip(apart.parameters, latents.parameters, strict=True):
            torch.testing.assert_close(one, other)
    for slow, quick in zip(*ends, strict=True):
        torch.testing.assert_close(quick, slow, rtol=2e-5 if dtype == torch.float32 else 1e-10, atol=1e-5)


def test_no_codes_at_all():
    p, b_dec = weights(10, 4, torch.float32)
    x, fast = rows(6, 4, torch.float32), Numba()
    codes = fast.encode(x, p.W_enc, p.b_enc - 100, Positive())
    residual = torch.empty_like(x)
    assert len(codes.value) == 0 and len(fast.decode(codes, p.W_dec, b_dec, x, residual)) == 0
    torch.testing.assert_close(residual, b_dec - x)
    assert fast.transpose(codes, 10).start.tolist() == [0] * 11


def test_nothing_depends_on_the_number_of_threads():
    p, b_dec = weights(200, 16, torch.float32)
    x, threads, ends = rows(300, 16, torch.float32), torch.get_num_threads(), []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            fast = Numba()
            codes = REFERENCE.encode(x, p.W_enc, p.b_enc, Positive())
            residual = torch.empty_like(x)
            grad = fast.decode(codes, p.W_dec, b_dec, x, residual)
            ends.append([residual, grad, *fast.transpose(codes, 200)])
    finally:
        torch.set_num_threads(threads)
        Numba()
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


STEP = """
import numpy as np
from sae.training.kernels import loops
draw = np.random.default_rng(0)
w_enc, w_dec, b, *moments, to_enc, to_dec, to_bias = (
    draw.random(shape, np.float32) for _ in range(4) for shape in ((40, 12), (40, 12), 40)
)
hyper = tuple(map(np.float32, (1e-3, 1.0, 0.9, 0.1, 0.999, 0.001, 1e-8)))
none = np.empty(0, np.float32)
loops.descend(w_enc, w_dec, b, *moments, to_enc, to_dec, to_bias, hyper, True, np.empty((0, 0), np.uint16), none, none)
print(np.concatenate([w_enc.ravel(), w_dec.ravel(), b, *(m.ravel() for m in moments)]).tobytes().hex())
"""


def test_loops_that_were_just_compiled_and_those_read_from_disk_give_the_same_bits(tmp_path: Path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", STEP]
    ends = [subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, check=True) for _ in range(2)]
    assert list(tmp_path.rglob("*.nbc")) and ends[0].stdout == ends[1].stdout != b""


GATHER = """
import numpy as np, torch
from sae.numerics.numba_loops import gather_in_pieces
torch.set_num_threads(1)
table, out = np.eye(4, dtype=np.float32), np.empty((2, 4), np.float32)
gather_in_pieces(np.array([table.ctypes.data], np.uint64), np.array([4]), np.array([2, 0]), out, 2)
assert (out == table[[2, 0]]).all()
print(torch.get_num_threads())
"""


def test_threads_that_numba_starts_leave_torchs_number_alone():
    """Threads start once per process, so that the test needs a process of its own."""
    ended = subprocess.run([sys.executable, "-c", GATHER], cwd=CHECKOUT, capture_output=True, check=True)
    assert int(ended.stdout) == 1
