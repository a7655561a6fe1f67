"""Codes of rows of tokens, of which only what is not zero is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class SparseCodes:
    """Values at (`row`, `position`, `latent`), sorted by these; zero everywhere else of `shape`.

    It also carries attributions, which are zero wherever a code is. `read` says at which positions there was a
    dictionary at all.
    """

    row: Int[Tensor, " n"]
    position: Int[Tensor, " n"]
    latent: Int[Tensor, " n"]
    value: Float[Tensor, " n"]
    shape: tuple[int, int, int]
    read: Bool[Tensor, "rows n_tokens"]

    @classmethod
    def of(cls, z: Float[Tensor, "positions n_latents"], kept: Bool[Tensor, "rows n_tokens"]) -> SparseCodes:
        """The codes at the kept positions, row by row."""
        rows, positions = kept.nonzero(as_tuple=True)
        at, latent = z.nonzero(as_tuple=True)
        shape = (kept.shape[0], kept.shape[1], z.shape[-1])
        return cls(rows[at], positions[at], latent, z[at, latent], shape, kept)

    def dense(self) -> Float[Tensor, "rows n_tokens n_latents"]:
        out = torch.zeros(self.shape, dtype=self.value.dtype, device=self.value.device)
        out[self.row, self.position, self.latent] = self.value
        return out

    def total(self) -> Float[Tensor, " n_latents"]:
        """The sum over all positions, for every latent."""
        out = torch.zeros(self.shape[-1], dtype=self.value.dtype, device=self.value.device)
        return out.index_add(0, self.latent, self.value)

    def of_latent(self, j: int) -> Float[Tensor, "rows n_tokens"]:
        """One latent at every position."""
        out = torch.zeros(self.shape[:2], dtype=self.value.dtype, device=self.value.device)
        mine = self.latent == j
        out[self.row[mine], self.position[mine]] = self.value[mine]
        return out

    @classmethod
    def joined(cls, parts: Sequence[SparseCodes]) -> SparseCodes:
        """Rows of one length, one part after another."""
        begins = [sum(p.shape[0] for p in parts[:i]) for i in range(len(parts))]
        row = torch.cat([p.row + begin for p, begin in zip(parts, begins, strict=True)])
        position, latent, value = (torch.cat([getattr(p, n) for p in parts]) for n in ("position", "latent", "value"))
        _, n_tokens, n_latents = parts[0].shape
        shape = (sum(p.shape[0] for p in parts), n_tokens, n_latents)
        return cls(row, position, latent, value, shape, torch.cat([p.read for p in parts]))
