"""Sorts the latents of nested dictionaries by how often they fire, so that the first levels have the most frequent.

Which latent ends in which level is otherwise decided by its initial place. General features fire more often than the
specific ones that imply them, so that this order is that of a hierarchy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sae.training.stack import Stack

if TYPE_CHECKING:
    from sae.training.state import State

EVERY = 100
"""The number of steps between sortings."""
RATE = 0.01
"""The share of a batch in the moving average of the frequencies."""


def follow_frequency_(state: State, of_batch: Tensor) -> bool:
    """Adds the frequencies of a batch, ``[n_members, n_latents]``, to their moving average, and every :data:`EVERY`
    steps moves all that belongs to a latent to the latent's place in that order, in place. Returns whether it did."""
    assert state.frequency is not None
    state.frequency.lerp_(of_batch, RATE)
    if state.step % EVERY:
        return False
    order = state.frequency.argsort(dim=-1, descending=True, stable=True)
    for tensor in _of_latents(state):
        index = order if tensor.ndim == 2 else order[:, :, None].expand_as(tensor)
        tensor.copy_(torch.gather(tensor, 1, index))
    return True


def _of_latents(state: State) -> list[Tensor]:
    """All tensors of a state with an axis of latents, after that of members."""
    assert state.frequency is not None
    parameters = {name: t for name, t in state.stack.tensors().items() if name not in Stack.WITHOUT_LATENTS}
    moments = [moment for name, pair in state.moments.items() if name in parameters for moment in pair]
    averages = [average for name, average in state.average.items() if name in parameters]
    return [*parameters.values(), *moments, *averages, state.steps_since_fired, state.frequency]
