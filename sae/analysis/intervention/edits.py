"""What may be done to the codes of a spliced dictionary: each is a function of the codes and of the dictionary.

An edit maps codes ``[positions, n_latents]`` to codes of the same shape; any function of that form is one. Edits are
made in the order in which they are given.
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


@dataclass(frozen=True)
class _OfLatents:
    """An edit of a few latents; what it does to them is `new`."""

    latents: tuple[int, ...]
    new: Callable[[Tensor, Dictionary], Tensor]

    def __call__(self, z: Tensor, d: Dictionary) -> Tensor:
        wrong = [j for j in self.latents if not 0 <= j < d.n_latents]
        if wrong:
            raise UserError(f"latent {wrong[0]}: the dictionary has latents 0 to {d.n_latents - 1}")
        index = torch.tensor(self.latents, device=z.device)
        return z.index_copy(-1, index, self.new(z[..., index], d).to(z.dtype))


def zero(*latents: int) -> Edit:
    """Ablates latents: ``z_j = 0``."""
    return clamp(*latents, value=0.0)


def clamp(*latents: int, value: float) -> Edit:
    """Holds latents at a value, at every position: ``z_j = value``."""
    return _OfLatents(latents, lambda z, d: torch.full_like(z, value))


def scale(*latents: int, by: float) -> Edit:
    """Makes latents stronger or weaker where they fire: ``z_j = by z_j``."""
    return _OfLatents(latents, lambda z, d: z * by)


def add(*latents: int, amount: float) -> Edit:
    """Adds to latents, at every position: ``z_j = z_j + amount``."""
    return _OfLatents(latents, lambda z, d: z + amount)


def steer(*latents: int, amount: float) -> Edit:
    """Moves activations by `amount` along the unit direction of each latent, at every position, in units of the
    activations: ``z_j = z_j + amount / ||W_dec_j||`` (activation addition; Turner et al. 2023)."""

    def new(z: Tensor, d: Dictionary) -> Tensor:
        return z + amount / d.W_dec[list(latents)].norm(dim=-1)

    return _OfLatents(latents, new)


def only(latents: Sequence[int]) -> Edit:
    """Ablates every latent but these."""

    def edit(z: Tensor, d: Dictionary) -> Tensor:
        index = torch.tensor(list(latents), device=z.device, dtype=torch.long)
        return torch.zeros_like(z).index_copy(-1, index, z[..., index])

    return edit
