"""Edits of the codes of a spliced dictionary.

An edit is any function of the codes ``[positions, n_latents]`` and the dictionary that returns codes of the same shape.
Several edits are applied in the order of the sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sae.dictionary import Dictionary
from sae.registry import UserError

_Codes = Float[Tensor, "positions n_latents"]
Edit = Callable[[_Codes, Dictionary], _Codes]
"""A function ``edit(z, dictionary) -> z``."""


@dataclass(frozen=True)
class _OfLatents:
    """An edit of a few latents; `new` returns their new codes."""

    latents: tuple[int, ...]
    new: Callable[[Tensor, Dictionary], Tensor]

    def __call__(self, z: Tensor, d: Dictionary) -> Tensor:
        wrong = [j for j in self.latents if not 0 <= j < d.n_latents]
        if wrong:
            raise UserError(f"latent {wrong[0]}: does not exist; give numbers from 0 to {d.n_latents - 1}")
        index = torch.tensor(self.latents, device=z.device)
        return z.index_copy(-1, index, self.new(z[..., index], d).to(z.dtype))


def zero(*latents: int) -> Edit:
    """Ablates latents: ``z_j = 0``."""
    return clamp(*latents, value=0.0)


def clamp(*latents: int, value: float) -> Edit:
    """Sets latents to a value at every position: ``z_j = value``."""
    return _OfLatents(latents, lambda z, d: torch.full_like(z, value))


def scale(*latents: int, by: float) -> Edit:
    """Multiplies latents by a factor: ``z_j = by z_j``."""
    return _OfLatents(latents, lambda z, d: z * by)


def add(*latents: int, amount: float) -> Edit:
    """Adds an amount to latents at every position: ``z_j = z_j + amount``."""
    return _OfLatents(latents, lambda z, d: z + amount)


def steer(*latents: int, amount: float) -> Edit:
    """Moves activations by `amount` along the unit direction of each latent, at every position, in units of the
    activations: ``z_j = z_j + amount / ||W_dec_j||`` (activation addition; Turner et al. 2023)."""

    def new(z: Tensor, d: Dictionary) -> Tensor:
        return z + amount / d.W_dec[list(latents)].norm(dim=-1)

    return _OfLatents(latents, new)


def only(latents: Sequence[int]) -> Edit:
    """Ablates all other latents: ``z_j = 0`` for j not in `latents`."""

    def edit(z: Tensor, d: Dictionary) -> Tensor:
        index = torch.tensor(list(latents), device=z.device, dtype=torch.long)
        return torch.zeros_like(z).index_copy(-1, index, z[..., index])

    return edit
