"""Sparse storage for codes of rows of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class SparseCodes:
    """The nonzero values of an array ``[rows, n_tokens, n_latents]``, sorted by row, position and latent.

    It also stores attributions, which are zero wherever a code is.
    """

    row: Int[Tensor, " n"]
    """The row of tokens of each value."""
    position: Int[Tensor, " n"]
    """The position of each value."""
    latent: Int[Tensor, " n"]
    """The latent of each value."""
    value: Float[Tensor, " n"]
    """The codes, or attributions to them."""
    shape: tuple[int, int, int]
    """``(rows, n_tokens, n_latents)``."""
    read: Bool[Tensor, "rows n_tokens"]
    """The positions at which the dictionary was applied."""

    @classmethod
    def of(cls, z: Float[Tensor, "positions n_latents"], kept: Bool[Tensor, "rows n_tokens"]) -> SparseCodes:
        """From the codes at the kept positions, row by row."""
        rows, positions = kept.nonzero(as_tuple=True)
        at, latent = z.nonzero(as_tuple=True)
        shape = (kept.shape[0], kept.shape[1], z.shape[-1])
        return cls(rows[at], positions[at], latent, z[at, latent], shape, kept)

    def dense(self) -> Float[Tensor, "rows n_tokens n_latents"]:
        """The full array."""
        out = torch.zeros(self.shape, dtype=self.value.dtype, device=self.value.device)
        out[self.row, self.position, self.latent] = self.value
        return out

    def total(self) -> Float[Tensor, " n_latents"]:
        """The sum over all positions of every latent."""
        out = torch.zeros(self.shape[-1], dtype=self.value.dtype, device=self.value.device)
        return out.index_add(0, self.latent, self.value)

    def of_latent(self, j: int) -> Float[Tensor, "rows n_tokens"]:
        """One latent at every position."""
        out = torch.zeros(self.shape[:2], dtype=self.value.dtype, device=self.value.device)
        at = self.latent == j
        out[self.row[at], self.position[at]] = self.value[at]
        return out

    @classmethod
    def joined(cls, parts: Sequence[SparseCodes]) -> SparseCodes:
        """Concatenates parts along the rows; all have the same number of tokens and latents."""
        starts = [sum(p.shape[0] for p in parts[:i]) for i in range(len(parts))]
        row = torch.cat([p.row + start for p, start in zip(parts, starts, strict=True)])
        position, latent, value = (torch.cat([getattr(p, n) for p in parts]) for n in ("position", "latent", "value"))
        _, n_tokens, n_latents = parts[0].shape
        shape = (sum(p.shape[0] for p in parts), n_tokens, n_latents)
        return cls(row, position, latent, value, shape, torch.cat([p.read for p in parts]))
