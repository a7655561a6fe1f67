"""Which latents still fire, and a second life for those that do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae.numerics.seeds import generator
from sae.training.stack import Stack

ENCODER_SHARE = 0.2
"""A resampled encoder row has this share of the living rows' mean norm (Bricken et al. 2023)."""


def count_steps_since_fired_(silent_for: Int[Tensor, "n_members n_latents"], fired: Tensor) -> None:
    """Adds one step to every latent's silence, and ends the silence of those that fired."""
    silent_for += 1
    silent_for.masked_fill_(fired, 0)


def resample_(
    stack: Stack,
    moments: Mapping[str, Sequence[Tensor]],
    dead: Bool[Tensor, "n_members n_latents"],
    x: Float[Tensor, "pool d_in"],
    y: Float[Tensor, "pool d_in"],
    errors: Float[Tensor, "n_members pool"],
    seeds: Sequence[int],
    step: int,
) -> None:
    """Points dead latents at inputs that are badly reconstructed (Bricken et al. 2023, 'Neuron resampling').

    Inputs are drawn with probability proportional to their squared loss. The decoder row becomes the unit
    vector of ``y - b_dec``, the encoder row that of what is read, at a fifth of the living rows' mean norm, the bias
    zero.
    Adam's moments of exactly those entries are zeroed: old momentum would carry the new row back.
    """
    for i, seed in enumerate(seeds):
        rows = dead[i].nonzero()[:, 0]
        if len(rows) == 0:
            continue
        weight = errors[i].double().square().cpu()
        if not bool(weight.sum() > 0):
            continue
        drawn = torch.multinomial(weight, len(rows), replacement=True, generator=generator("resample", seed, step))
        read, wanted = (
            torch.nn.functional.normalize(part[drawn.to(x.device)] - middle[i], dim=-1)
            for part, middle in ((x, stack.subtracted), (y, stack.b_dec))
        )
        alive = ~dead[i]
        norm = stack.W_enc[i][alive].norm(dim=-1).mean() if bool(alive.any()) else read.new_ones(())
        stack.W_dec[i, rows] = wanted
        stack.W_enc[i, rows] = read * (ENCODER_SHARE * norm)
        stack.b_enc[i, rows] = 0
        for name in ("W_enc", "W_dec", "b_enc"):
            for moment in moments[name]:
                moment[i, rows] = 0
