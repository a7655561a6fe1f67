"""Uniform numbers of a torch CPU generator, several times as fast: the same bits, and the generator moved on alike.

Torch draws them one by one from a Mersenne Twister (Matsumoto and Nishimura 1998), whose 624 words of state numba
renews and tempers many at a time.
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
# Where torch's CPUGeneratorImpl.cpp keeps them in a generator's state: seed (8 bytes), how many words are left and
# one (4), whether it was seeded (4), the next word's number (8), the words (8 each); what normal draws left over.
LEFT, NEXT, WORDS = slice(8, 12), slice(16, 24), slice(24, 24 + 8 * N_WORDS)


def uniform(shape: tuple[int, ...], draw: torch.Generator) -> Tensor:
    """``torch.rand(shape, generator=draw)``."""
    if 0 in shape or not _compiled():
        return torch.rand(shape, generator=draw)
    from sae.numerics.numba_loops import fill_uniform

    out = torch.empty(shape)
    _drawn(draw, lambda words, at: fill_uniform(words, at, out.view(-1).numpy()))
    return out


def keep_(
    values: Float[Tensor, "rows n"], probability: Float[Tensor, "... n"], draw: torch.Generator
) -> Float[Tensor, "rows n"]:
    """``values *= torch.rand(values.shape, generator=draw) < probability``: sets to zero what does not fire."""
    if values.numel() == 0 or not _compiled():
        return values.mul_(torch.rand(values.shape, generator=draw) < probability)
    from sae.numerics.numba_loops import keep

    p = probability.reshape(-1, values.shape[1]).contiguous().numpy()
    _drawn(draw, lambda words, at: keep(words, at, p, values.numpy()))
    return values


def _drawn(draw: torch.Generator, loop: Callable[[NDArray[np.uint32], int], int]) -> None:
    """Calls a loop that draws, with the generator's words and how many of them are used up; it returns that number."""
    state = draw.get_state().numpy()
    left, words = state[LEFT].view(np.int32), state[WORDS].view(np.uint64)
    drawn = words.astype(np.uint32)
    at = loop(drawn, N_WORDS + 1 - int(left[0]))
    words[:], left[0], state[NEXT].view(np.uint64)[0] = drawn, N_WORDS + 1 - at, at
    draw.set_state(torch.from_numpy(state))


@cache
def _compiled() -> bool:
    """Whether numba is there, and gives what this version of torch gives."""
    if not HAS_NUMBA:
        return False
    from sae.numerics.numba_loops import fill_uniform

    ours, theirs = (torch.Generator().manual_seed(1) for _ in range(2))
    expected = torch.rand(2 * N_WORDS + 1, generator=theirs)
    state = theirs.get_state()
    if state.numel() < WORDS.stop:
        return False
    found = np.empty(len(expected), np.float32)
    try:
        _drawn(ours, lambda words, at: fill_uniform(words, at, found))
    except RuntimeError:  # torch refuses the state
        return False
    return bool(np.array_equal(found, expected.numpy()) and torch.equal(ours.get_state(), state))
