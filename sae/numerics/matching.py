"""Matches latents to features by cosine, one to one.

Cosines are signed, because codes are non-negative: a latent that points away from a feature can never
represent it, and with |cos| one latent could match both features of an antipodal pair.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

MERGED = 0.95
"""The cosine above which two features count as one, since activations alone hardly distinguish them."""
LARGEST_ASSIGNMENT = 20_000
"""The most rows or columns that are matched one to one; the time grows with the cube, and takes minutes here."""


@dataclass(frozen=True, eq=False)
class Matching:
    """Cosines between the represented features and the latents, with the best one-to-one assignment."""

    feature: Int[Tensor, " n_represented"]
    """The index of each represented feature among all features."""
    cosine: Float[Tensor, "n_represented n_latents"]
    """Signed cosines; 0 for directions of length zero."""

    @cached_property
    def latent(self) -> Int[Tensor, " n_represented"] | None:
        """The latent assigned to each feature, -1 for none; None if there are more than `LARGEST_ASSIGNMENT`."""
        return one_to_one(self.cosine) if max(self.cosine.shape) <= LARGEST_ASSIGNMENT else None


def unit(rows: Float[Tensor, "rows d_in"]) -> Float[Tensor, "rows d_in"]:
    """Rows divided by their norms; zero rows stay zero."""
    norm = rows.norm(dim=-1, keepdim=True)
    return rows / torch.where(norm > 0, norm, torch.ones_like(norm))


def cosines(
    features: Float[Tensor, "n_features d_in"], latents: Float[Tensor, "n_latents d_in"]
) -> Float[Tensor, "n_features n_latents"]:
    """Signed cosines; 0 if either direction has length zero."""
    return unit(features.float()) @ unit(latents.float()).T


def one_to_one(cosine: Float[Tensor, "n_features n_latents"]) -> Int[Tensor, " n_features"]:
    """The latent of each feature in the assignment with the largest sum of cosines, -1 for none (Hungarian)."""
    from scipy.optimize import linear_sum_assignment

    features, latents = linear_sum_assignment(cosine.cpu().numpy(), maximize=True)
    partner = torch.full((len(cosine),), -1, dtype=torch.int64)
    partner[torch.from_numpy(features)] = torch.from_numpy(latents)
    return partner.to(cosine.device)
