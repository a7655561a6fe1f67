"""The Triton kernels against the reference kernels, on a GPU or in Triton's interpreter; see `test_gpu`.

The interpreter truncates to bfloat16 instead of rounding; the tolerances allow for that.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sae.architecture import Architecture, Largest, Positive, Selection
from sae.dictionaries.gated import GatedArchitecture
from sae.dictionaries.relu import ReluArchitecture
from sae.training.gradients import StepInputs, Terms
from sae.training.kernels import Adam, ByLatent, Codes, Latents, Rounded, SparseBackward, TrainedLatents
from sae.training.kernels.backend import kernels_for
from sae.training.kernels.gpu import INTERPRETED, Triton
from sae.training.kernels.graph import Replay
from sae.training.kernels.reference import Reference
from sae.training.sparse_step import Members, sparse_descend
from sae.training.stack import Stack

DEVICE = "cpu" if INTERPRETED else "cuda"
# Batch, latents of a member, width, members. Tiles are wider than 80 and its inner blocks do not divide it.
LARGE = [] if INTERPRETED else [(1000, 6000, 768, 2), (9000, 24_576, 256, 1), (500, 700, 80, 9)]
ENCODED = [(3, 70, 48, 2), (17, 33, 16, 1), (4, 5, 5, 1), (2, 1, 32, 2), *LARGE]
STEPPED = [(4, 7, 20, 2), (3, 2, 1, 1)] + ([] if INTERPRETED else [(2000, 3000, 768, 3), (500, 300, 4100, 1)])
ENCODE = pytest.mark.parametrize(("batch", "n_latents", "d_in", "n_members"), ENCODED)
STEP = pytest.mark.parametrize(("batch", "n_latents", "d_in", "n_members"), STEPPED)
REFERENCE = Reference()


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def problem(
    batch: int, n_latents: int, d_in: int, n_members: int = 1, share: float = 0.2
) -> tuple[Tensor, Latents, Tensor]:
    """Inputs, latents with about this `share` active, and b_dec. Latent 0 fires in every row, the last in none."""
    n = n_members * n_latents
    x, W_enc, W_dec = normal(batch, d_in, seed=1), normal(n, d_in, seed=2), normal(n, d_in, seed=3)
    W_enc /= d_in**0.5
    b_enc = torch.full((n,), -torch.special.ndtri(torch.tensor(1 - share, dtype=torch.float64)).item())
    b_enc[0], b_enc[-1] = 20, -20
    p = Latents(W_enc, W_dec / W_dec.norm(dim=-1, keepdim=True), b_enc.to(DEVICE))
    return x, p, normal(n_members, d_in, seed=4)


def dense(codes: Codes, n_latents: int) -> Tensor:
    """The codes as a matrix; asserts their order."""
    rows = len(codes.start) - 1
    row = torch.arange(rows, device=DEVICE).repeat_interleave(codes.start.diff())
    place = row * n_latents + codes.latent
    assert bool((place.diff() > 0).all()) and bool((codes.value > 0).all())
    assert codes.start[0] == 0 and codes.start[-1] == len(codes.latent) == len(codes.value)
    return torch.zeros(rows * n_latents, device=DEVICE).index_put_((place,), codes.value).view(rows, n_latents)


def same(actual: Codes, expected: Codes, n_latents: int, tolerance: float = 1e-5) -> None:
    """Entries that only one of the two has are no larger than the tolerance."""
    torch.testing.assert_close(dense(actual, n_latents), dense(expected, n_latents), rtol=tolerance, atol=tolerance)


@ENCODE
@pytest.mark.parametrize("selection", [Positive(), Largest(3), Largest(10**6)], ids=str)
def test_encode(selection: Selection, batch: int, n_latents: int, d_in: int, n_members: int):
    x, p, _ = problem(batch, n_latents, d_in, n_members)
    actual = Triton().encode(x, p.W_enc, p.b_enc, selection, None, n_members)
    same(actual, REFERENCE.encode(x, p.W_enc, p.b_enc, selection, None, n_members), len(p.b_enc))


def test_of_equal_codes_the_leftmost_are_kept():
    W_enc, x = torch.ones(6, 2, device=DEVICE), torch.ones(1, 2, device=DEVICE)
    codes = Triton().encode(x, W_enc, torch.tensor([0.0, 1, 0, 0, 1, 0], device=DEVICE), Largest(4))
    assert codes.latent.tolist() == [0, 1, 2, 4] and codes.value.tolist() == [2, 3, 2, 3]


@ENCODE
@pytest.mark.parametrize("scale", [1e-3, 1e4])
def test_the_screen_finds_every_code(batch: int, n_latents: int, d_in: int, n_members: int, scale: float):
    x, p, _ = problem(batch, n_latents, d_in, n_members)
    x, offset = x * scale, p.b_enc * scale
    actual = Triton().encode(x, p.W_enc, offset, Positive(), Rounded.of(p.W_enc, exact=True), n_members)
    expected = REFERENCE.encode(x, p.W_enc, offset, Positive(), None, n_members)
    actual, expected = (codes._replace(value=codes.value / scale) for codes in (actual, expected))
    same(actual, expected, len(p.b_enc))


def test_the_screen_keeps_latents_that_rounding_alone_makes_inactive():
    """Products slightly above zero that are below zero for rounded vectors: the screen is not the product."""
    x = 1 + 2.0**-8 * normal(10, 64, seed=5).abs()
    W_enc = torch.cat([torch.ones(16, 32), -torch.ones(16, 32)], 1).to(DEVICE) + 2.0**-9 * normal(16, 64, seed=6)
    offset, rounded = torch.zeros(16, device=DEVICE), Rounded.of(W_enc, exact=True)
    expected = REFERENCE.encode(x, W_enc, offset, Positive())
    plain = (x.bfloat16().float() @ rounded.W_enc.float().T > 0).sum()
    assert len(expected.value) > 20 and abs(int(plain) - len(expected.value)) > 5
    same(Triton().encode(x, W_enc, offset, Positive(), rounded), expected, 16, 1e-4)


@ENCODE
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("selection", [Positive(), Largest(3)], ids=str)
def test_a_plain_rounded_product(
    batch: int, n_latents: int, d_in: int, n_members: int, selection: Selection, fused: bool
):
    x, p, _ = problem(batch, n_latents, d_in, n_members)
    rounded = Rounded.of(p.W_enc, exact=False)
    actual = Triton(fused).encode(x, p.W_enc, p.b_enc, selection, rounded, n_members)
    expected = REFERENCE.encode(x, p.W_enc, p.b_enc, selection, rounded, n_members)
    if isinstance(selection, Positive):
        same(actual, expected, len(p.b_enc), 0.04)
    else:
        # Which of two nearly equal codes is kept depends on rounding; its size hardly does.
        a, b = (dense(codes, len(p.b_enc)).topk(min(3, n_latents)).values for codes in (actual, expected))
        torch.testing.assert_close(a, b, rtol=0.04, atol=0.04)


def test_more_pairs_than_there_was_room_for():
    x, p, _ = problem(2, 20, 16, share=0.7)
    for rounded in (None, Rounded.of(p.W_enc, exact=True)):
        kernels = Triton()
        kernels._make_room(5, x)
        actual = kernels.encode(x, p.W_enc, p.b_enc, Positive(), rounded)
        same(actual, REFERENCE.encode(x, p.W_enc, p.b_enc, Positive()), 20)
        assert len(kernels._latent) > 5


def test_rows_in_blocks(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sae.training.kernels.gpu.block", lambda *_: (3, 1))
    x, p, _ = problem(4, 10, 16, 2)
    for rounded in (None, Rounded.of(p.W_enc, exact=True)):
        actual = Triton().encode(x, p.W_enc, p.b_enc, Positive(), rounded, 2)
        same(actual, REFERENCE.encode(x, p.W_enc, p.b_enc, Positive(), None, 2), 20)


def test_members_in_blocks(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sae.training.kernels.gpu.block", lambda *_: (3, 2))
    x, p, _ = problem(3, 5, 16, 3)
    for rounded in (None, Rounded.of(p.W_enc, exact=True)):
        actual = Triton().encode(x, p.W_enc, p.b_enc, Positive(), rounded, 3)
        same(actual, REFERENCE.encode(x, p.W_enc, p.b_enc, Positive(), None, 3), 15)


def codes_of(x: Tensor, p: Latents, n_members: int, kind: str) -> Codes:
    """Codes with an empty row in the middle ("many"), of a single latent, or none at all."""
    offset = p.b_enc.clone()
    if kind == "one latent":
        offset[1:] = -1e6
    if kind == "none":
        offset -= 1e6
    codes = REFERENCE.encode(x, p.W_enc, offset, Positive(), None, n_members)
    if kind == "many":
        z = dense(codes, len(offset))
        z[len(z) // 2] = 0
        where = z.nonzero()
        start = torch.nn.functional.pad((z > 0).sum(-1).cumsum(0), (1, 0))
        codes = Codes(start, where[:, 1].int(), z[where[:, 0], where[:, 1]])
    return codes


@STEP
@pytest.mark.parametrize("unit_rows", [True, False])
@pytest.mark.parametrize("kind", ["many", "one latent", "none"])
def test_the_rest_of_the_step(batch: int, n_latents: int, d_in: int, n_members: int, kind: str, unit_rows: bool):
    x, p, b_dec = problem(batch, n_latents, d_in, n_members)
    compare_steps(codes_of(x, p, n_members, kind), x, p, b_dec, unit_rows)


@pytest.mark.parametrize("pairs", [7, 8, 19])
def test_lists_that_are_cut_into_chunks(monkeypatch: pytest.MonkeyPatch, pairs: int):
    monkeypatch.setattr("sae.training.kernels.gpu.CHUNK", 8)
    x, p, b_dec = problem(pairs, 3, 4)
    compare_steps(codes_of(x, p, 1, "one latent"), x, p, b_dec, True)


def compare_steps(codes: Codes, x: Tensor, p: Latents, b_dec: Tensor, unit_rows: bool) -> None:
    ends, adam, n_latents = [], Adam.at(3, 1e-2, 0.9, 0.999), len(p.b_enc)
    for kernels in (REFERENCE, Triton()):
        residual = x.new_empty(len(codes.start) - 1, x.shape[1])
        grad = kernels.decode(codes, p.W_dec, b_dec, x, residual)
        by = kernels.transpose(codes, n_latents)
        along = None if unit_rows else p.b_enc
        latents = trained(p, unit_rows, rounded=True)
        backward = backward_of(latents, by, codes, grad, residual, x, b_dec)._replace(along=along)
        gradient = Latents(*(torch.empty_like(t) for t in p))
        kernels.gradients(backward, gradient)
        before = [t.clone() for t in gradient]
        kernels.update(latents, backward, adam)
        assert_rounded(latents)

        apart = trained(p, unit_rows, rounded=True)
        kernels.descend(apart, gradient, adam)
        assert_rounded(apart)
        for one, other in zip(state(apart), state(latents), strict=True):
            torch.testing.assert_close(one, other)
        ends.append([residual, grad, *by, kernels.sums(by, grad), *before, *state(latents)])
    for slow, quick in zip(*ends, strict=True):
        assert slow.dtype == quick.dtype
        torch.testing.assert_close(quick, slow, rtol=1e-4, atol=1e-5 * max(1.0, len(x) ** 0.5 / 4))


def trained(p: Latents, unit_rows: bool, rounded: bool = False) -> TrainedLatents:
    """Copies of the latents with some moments."""
    parameters, m, v = (Latents(*(t.clone() + 0.1 * i for t in p)) for i in (0, 1, 2))
    short = Rounded.of(parameters.W_enc, exact=True) if rounded else None
    return TrainedLatents(parameters, m, Latents(*(t.abs() for t in v)), unit_rows, short)


def state(latents: TrainedLatents) -> tuple[Tensor, ...]:
    return *latents.parameters, *latents.m, *latents.v


def backward_of(
    latents: TrainedLatents, by: ByLatent, codes: Codes, grad: Tensor, residual: Tensor, x: Tensor, b_dec: Tensor
) -> SparseBackward:
    return SparseBackward(
        by=by,
        z=codes.value,
        g=grad,
        residual=residual,
        x=x,
        centre=b_dec,
        W_dec=latents.parameters.W_dec,
        along=None,
        scale=2 / len(x),
    )


def assert_rounded(latents: TrainedLatents) -> None:
    """The rounded encoder after an update is that of the updated encoder, bit by bit."""
    rounded, again = latents.rounded, Rounded.of(latents.parameters.W_enc, exact=True)
    assert rounded is not None and torch.equal(rounded.W_enc, again.W_enc)
    torch.testing.assert_close(rounded.norm, again.norm)
    torch.testing.assert_close(rounded.error, again.error)


@pytest.mark.skipif(INTERPRETED, reason="the interpreter runs one program after another")
def test_a_step_is_the_same_every_time():
    x, p, b_dec = problem(3000, 900, 200)
    ends = []
    for _ in range(2):
        kernels, residual = Triton(), torch.empty_like(x)
        codes = kernels.encode(x, p.W_enc, p.b_enc, Positive(), Rounded.of(p.W_enc, exact=True))
        grad = kernels.decode(codes, p.W_dec, b_dec, x, residual)
        latents, by = trained(p, unit_rows=True), kernels.transpose(codes, 900)
        backward = backward_of(latents, by, codes, grad, residual, x, b_dec)
        kernels.update(latents, backward, Adam.at(1, 1e-3, 0.9, 0.999))
        ends.append([*codes, grad, residual, *state(latents)])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


@pytest.mark.parametrize("kind", [ReluArchitecture(), ReluArchitecture(unit_rows=False), GatedArchitecture()])
def test_whole_steps(kind: Architecture):
    """The sparse step of two members, with a screen, twice in a row."""
    ends = []
    for kernels in (REFERENCE, Triton()):
        x, p, b_dec = problem(3, 5, 16, 2)
        stack = Stack(*(t.unflatten(0, (2, 5)) for t in p), b_dec)
        stack.latent_parameters = {
            name: torch.full_like(stack.b_enc, value) for name, value in kind.initial_values.items()
        }
        m, v = (Stack.of({name: torch.zeros_like(t) for name, t in stack.parameters().items()}) for _ in range(2))
        rounded, residual, terms = Rounded.of(p.W_enc, exact=True), x.new_empty(2, *x.shape), Terms.empty(stack)
        coefficient, target_l0, rest = torch.tensor([0.3, 0.1], device=DEVICE), torch.zeros(2, device=DEVICE), None
        members = Members(kernels, stack, m, v, kind, residual, rounded)
        for t in (1, 2):
            adam = Adam.at(t, 1e-2, 0.9, 0.999)
            rest = sparse_descend(members, StepInputs(x, x, adam, coefficient, target_l0, terms))
        parts = (part.latents() for part in (stack, m, v))
        ends.append(
            [*(t for part in parts for t in part), rest.b_dec, *rest.latent_parameters.values(), *vars(terms).values()]
        )
    for slow, quick in zip(*ends, strict=True):
        torch.testing.assert_close(quick, slow, rtol=1e-3, atol=1e-4)


def test_numbers_of_adam_in_memory():
    """A captured step loads its numbers from device memory."""
    _, p, _ = problem(4, 5, 3)
    gradient, adam = Latents(*(normal(*t.shape, seed=9) for t in p)), Adam.at(2, 1e-2, 0.9, 0.999)
    stored = {name: torch.tensor(getattr(adam, name), device=DEVICE) for name in ("step_size", "root")}
    one, other = trained(p, unit_rows=True), trained(p, unit_rows=True)
    Triton().descend(one, gradient, adam)
    Triton().descend(other, gradient, adam._replace(**stored))
    for a, b in zip(one.parameters, other.parameters, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.skipif(INTERPRETED, reason="graphs are captured on a GPU")
def test_a_captured_step():
    """Calls before, during and after the capture are one step each, with their own numbers."""
    _, p, _ = problem(4, 50, 30)
    plain, replayed = trained(p, unit_rows=True), trained(p, unit_rows=True)

    def step(gradient: Tensor, step_size: Tensor | float, root: Tensor | float) -> Tensor:
        adam = Adam(1, 1, 0.9, 0.999)._replace(step_size=step_size, root=root)
        whole = Latents(gradient, gradient * 2, gradient[:, 0].contiguous())
        Triton().descend(replayed, whole, adam)
        return replayed.parameters.W_enc.sum()

    captured = Replay(step)
    for t in range(1, 7):
        adam, gradient = Adam.at(t, 1e-2 / t, 0.9, 0.999), normal(50, 30, seed=t)
        total = captured(gradient, adam.step_size, adam.root)
        whole = Latents(gradient, gradient * 2, gradient[:, 0].contiguous())
        Triton().descend(plain, whole, adam)
        torch.testing.assert_close(total, plain.parameters.W_enc.sum())
    for one, other in zip(state(plain), state(replayed), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.skipif(INTERPRETED, reason="the interpreter is never chosen")
def test_a_gpu_has_these_kernels():
    assert isinstance(kernels_for(torch.ones(2, 2, device=DEVICE)), Triton)
