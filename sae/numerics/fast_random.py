"""Uniform numbers of a torch CPU generator, several times as fast as torch, with the same bits and final state.

Torch draws them one by one from a Mersenne Twister (Matsumoto and Nishimura 1998). A loop compiled by numba updates
and tempers its 624 words of state many at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from sae.numerics.seeds import HAS_NUMBA

N_WORDS = 624
# The layout of a generator's state in torch's CPUGeneratorImpl.cpp: seed (8 bytes), number of words left plus one (4),
# whether it was seeded (4), index of the next word (8), the words (8 each), the cached normal draw.
LEFT, NEXT, WORDS = slice(8, 12), slice(16, 24), slice(24, 24 + 8 * N_WORDS)


def uniform(shape: tuple[int, ...], draw: torch.Generator) -> Tensor:
    """``torch.rand(shape, generator=draw)``."""
    if 0 in shape or not _compiled():
        return torch.rand(shape, generator=draw)
    from sae.numerics.numba_loops import fill_uniform

    out = torch.empty(shape)
    _draw_in_place(draw, lambda words, at: fill_uniform(words, at, out.view(-1).numpy()))
    return out


def keep_(
    values: Float[Tensor, "rows n"], probability: Float[Tensor, "... n"], draw: torch.Generator
) -> Float[Tensor, "rows n"]:
    """``values *= torch.rand(values.shape, generator=draw) < probability``: sets the values that do not fire to 0."""
    if values.numel() == 0 or not _compiled():
        return values.mul_(torch.rand(values.shape, generator=draw) < probability)
    from sae.numerics.numba_loops import keep

    p = probability.reshape(-1, values.shape[1]).contiguous().numpy()
    _draw_in_place(draw, lambda words, at: keep(words, at, p, values.numpy()))
    return values


def _draw_in_place(draw: torch.Generator, loop: Callable[[NDArray[np.uint32], int], int]) -> None:
    """Calls ``loop(words, n_used)``, which draws and returns the new number of used words; updates the generator."""
    state = draw.get_state().numpy()
    left, words = state[LEFT].view(np.int32), state[WORDS].view(np.uint64)
    updated = words.astype(np.uint32)
    n_used = loop(updated, N_WORDS + 1 - int(left[0]))
    words[:], left[0], state[NEXT].view(np.uint64)[0] = updated, N_WORDS + 1 - n_used, n_used
    draw.set_state(torch.from_numpy(state))


@cache
def _compiled() -> bool:
    """Whether numba is installed and gives the same numbers as this version of torch."""
    if not HAS_NUMBA:
        return False
    from sae.numerics.numba_loops import fill_uniform

    ours, theirs = (torch.Generator().manual_seed(1) for _ in range(2))
    expected = torch.rand(2 * N_WORDS + 1, generator=theirs)
    state = theirs.get_state()
    if state.numel() < WORDS.stop:
        return False
    actual = np.empty(len(expected), np.float32)
    try:
        _draw_in_place(ours, lambda words, at: fill_uniform(words, at, actual))
    except RuntimeError:  # torch refuses the state
        return False
    return bool(np.array_equal(actual, expected.numpy()) and torch.equal(ours.get_state(), state))
