"""Matches latents to features by cosine, one to one.

Cosines are signed, because codes are non-negative: a latent that points away from a feature can never
represent it, and with |cos| one latent could match both features of an antipodal pair.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae.numerics.assignment import Absolute, Assignment, Similarity, assign, one_to_one

__all__ = ["MERGED", "Cosines", "Matching", "Nearest", "cosines", "one_to_one", "unit"]

MERGED = 0.95
"""The cosine above which two features count as one, since activations alone hardly distinguish them."""


class Nearest(NamedTuple):
    """The most similar partner of each feature, or of each latent."""

    cosine: Float[Tensor, " n"]
    """The signed cosine."""
    partner: Int[Tensor, " n"]
    """The latent, or the number of the feature among the represented ones; the first of several."""


@dataclass(frozen=True, eq=False)
class Cosines(Similarity):
    """Signed cosines between the rows of two matrices; 0 for rows of length zero."""

    rows: Float[Tensor, "n_rows d_in"]
    """Directions of any length."""
    columns: Float[Tensor, "n_columns d_in"]
    """Directions of any length."""

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.rows), len(self.columns)

    def block(self, columns: slice) -> Float[Tensor, "rows block"]:
        return self._unit_rows @ unit(self.columns[columns].float()).T

    def transposed(self) -> Cosines:
        return Cosines(self.columns, self.rows)

    @cached_property
    def _unit_rows(self) -> Tensor:
        return unit(self.rows.float())


@dataclass(frozen=True, eq=False)
class Matching:
    """Represented features and latents by cosine: the nearest of each, and the best one-to-one assignment.

    Cosines are computed in blocks and not kept.
    """

    feature: Int[Tensor, " n_represented"]
    """The index of each represented feature among all features."""
    cosines: Cosines
    """Signed cosines between represented features and latents."""

    @classmethod
    def of(
        cls,
        directions: Float[Tensor, "n_features d_in"],
        represented: Bool[Tensor, " n_features"],
        W_dec: Float[Tensor, "n_latents d_in"],
    ) -> Matching:
        """The matching of the represented features with the latents of a decoder."""
        feature = represented.nonzero()[:, 0]
        return cls(feature, Cosines(directions[feature], W_dec))

    @property
    def latent(self) -> Int[Tensor, " n_represented"]:
        """The latent assigned to each feature, -1 for none."""
        return self.assignment.column

    @cached_property
    def assignment(self) -> Assignment:
        """The one-to-one assignment with the largest sum of signed cosines."""
        return assign(self.cosines)

    @cached_property
    def absolute_assignment(self) -> Assignment:
        """The one-to-one assignment with the largest sum of absolute cosines."""
        return assign(Absolute(self.cosines))

    @property
    def nearest_latent(self) -> Nearest:
        """The latent of the largest signed cosine with each feature."""
        return self._nearest[0]

    @property
    def nearest_feature(self) -> Nearest:
        """The feature of the largest signed cosine with each latent; not defined without features."""
        return self._nearest[1]

    @property
    def nearest_axis(self) -> Int[Tensor, " n_latents"]:
        """The feature of the largest absolute cosine with each latent, as :attr:`Nearest.partner`."""
        return self._nearest[2]

    @property
    def touched(self) -> Bool[Tensor, " n_latents"]:
        """Whether a latent has a cosine other than 0 with any feature, so that it is not a row of zeros."""
        return self._nearest[3]

    @cached_property
    def _nearest(self) -> tuple[Nearest, Nearest, Tensor, Tensor]:
        """All that needs one pass over the cosines."""
        device = self.feature.device
        value = torch.full((len(self.feature),), -torch.inf, device=device)
        latent = torch.zeros(len(self.feature), dtype=torch.int64, device=device)
        by_latent: list[tuple[Tensor, ...]] = []
        for begin, cosine in self.cosines.blocks():
            best = cosine.max(1)
            larger = best.values > value
            value, latent = torch.where(larger, best.values, value), torch.where(larger, best.indices + begin, latent)
            if len(cosine):
                by_latent.append((*cosine.max(0), cosine.abs().argmax(0), (cosine != 0).any(0)))
        nothing = torch.zeros(0, dtype=torch.int64, device=device)
        parts = [torch.cat(part) for part in zip(*by_latent, strict=True)] or [nothing.float(), *[nothing] * 3]
        return Nearest(value, latent), Nearest(parts[0], parts[1]), parts[2], parts[3]


def unit(rows: Float[Tensor, "rows d_in"]) -> Float[Tensor, "rows d_in"]:
    """Rows divided by their norms; zero rows stay zero."""
    norm = rows.norm(dim=-1, keepdim=True)
    return rows / torch.where(norm > 0, norm, torch.ones_like(norm))


def cosines(
    features: Float[Tensor, "n_features d_in"], latents: Float[Tensor, "n_latents d_in"]
) -> Float[Tensor, "n_features n_latents"]:
    """Signed cosines; 0 if either direction has length zero."""
    return unit(features.float()) @ unit(latents.float()).T
