"""Tracks dead latents and resamples them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae.numerics.processes import ALONE, Processes
from sae.numerics.seeds import generator
from sae.training.prefetch import Pair
from sae.training.stack import Stack

ENCODER_SHARE = 0.2
"""The norm of a resampled encoder row, as a share of the mean norm of live rows (Bricken et al. 2023)."""


def count_steps_since_fired_(steps_since_fired: Int[Tensor, "n_members n_latents"], fired: Tensor) -> None:
    """Adds one step to the count of every latent, in place, and resets the count of those that fired."""
    steps_since_fired += 1
    steps_since_fired.masked_fill_(fired, 0)


def resample_(
    stack: Stack,
    moments: Mapping[str, Sequence[Tensor]],
    dead: Bool[Tensor, "n_members n_latents"],
    pool: Pair,
    errors: Float[Tensor, "n_members pool"],
    *,
    seeds: Sequence[int],
    step: int,
    latents: Int[Tensor, " n"] | None = None,
    group: Processes = ALONE,
) -> None:
    """Points dead latents at inputs that are badly reconstructed (Bricken et al. 2023, 'Neuron resampling').

    Inputs are drawn from the `pool` with probability proportional to their squared loss. The decoder row becomes the
    unit vector of ``y - b_dec``, the encoder row that of ``x - b_dec`` at a fifth of the live rows' mean norm, and the
    bias zero. Adam's moments of exactly those entries are zeroed: old momentum would carry the new row back.

    Where the `group` has further latents, `latents` are the numbers of those of the stack among all: which input a
    latent is pointed at depends on its place among all dead latents.
    """
    for i, seed in enumerate(seeds):
        own = dead[i].nonzero()[:, 0]
        numbers = own if latents is None else latents.to(own.device)[own]
        all_dead = torch.cat(group.gather_rows(numbers)).sort().values
        if len(all_dead) == 0:
            continue
        weight = errors[i].double().square().cpu()
        if not bool(weight.sum() > 0):
            continue
        draw = generator("resample", seed, step)
        drawn = torch.multinomial(weight, len(all_dead), replacement=True, generator=draw)
        drawn = drawn[torch.searchsorted(all_dead, numbers).cpu()]
        input_direction, target_direction = (
            torch.nn.functional.normalize(samples[drawn.to(samples.device)] - centre[i], dim=-1)
            for samples, centre in ((pool.x, stack.subtracted), (pool.y, stack.b_dec))
        )
        norms = stack.W_enc[i][~dead[i]].norm(dim=-1)
        total, count = norms.sum(), norms.new_tensor(len(norms))
        group.sum_(total, count)
        norm = total / count if bool(count > 0) else torch.ones_like(total)
        stack.W_dec[i, own] = target_direction
        stack.W_enc[i, own] = input_direction * (ENCODER_SHARE * norm)
        stack.b_enc[i, own] = 0
        for name in ("W_enc", "W_dec", "b_enc"):
            for moment in moments[name]:
                moment[i, own] = 0
