"""Do the latents span the subspace of a feature that has more than one dimension, and how many share it?

For a subspace with orthonormal basis B [k, d_in], such as the plane of a circle, let G be the latents that fire on a
test sample and whose unit direction w lies in the subspace, ||B w|| >= `min_cosine`.

    subspace_cosine       cosine of the largest principal angle between B and the span of the directions of G (the k
                          dimensions that they span best, by singular values); 0 where G has fewer than k latents; in
                          [0, 1], 1 is best
    latents_per_subspace  |G|; k is the smallest number that can span the subspace

Both are means over subspaces. A dictionary that separates features from one another has subspace_cosine near 1, however
it represents the positions within a subspace; latents_per_subspace is the number of latents it uses for that. In few
dimensions random directions lie near a subspace too: compare both with random directions.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from sae.metric import Case, MetricConfig, Scores
from sae.metrics._code_sums import code_sums
from sae.numerics.matching import unit


class Config(MetricConfig):
    """Settings of the subspace scores; needs ``subspaces``.

    Vectors, ``[n_subspaces]``: `cosine` and `latents`.
    """

    kind: Literal["subspace"] = "subspace"
    min_cosine: float = Field(0.9, gt=0, le=1)
    """Smallest cosine between a latent's direction and the subspace at which the latent belongs to it."""

    needs: ClassVar[frozenset[str]] = frozenset({"subspaces"})

    def score(self, case: Case) -> Scores:
        subspaces = case.evidence.subspaces
        assert subspaces is not None
        directions = unit(case.dictionary.W_dec[code_sums(case).firings > 0].float())
        groups = [directions[(directions @ basis.T).norm(dim=1) >= self.min_cosine] for basis in subspaces]
        cosine = torch.tensor([spanned(group, basis) for group, basis in zip(groups, subspaces, strict=True)])
        latents = torch.tensor([float(len(group)) for group in groups])
        scalars = {"subspace_cosine": float(cosine.mean()), "latents_per_subspace": float(latents.mean())}
        return Scores(scalars, {"cosine": cosine, "latents": latents})


def spanned(directions: Float[Tensor, "n d_in"], basis: Float[Tensor, "k d_in"]) -> float:
    """The cosine of the largest principal angle between `basis` and the k dimensions that the directions span best."""
    k = len(basis)
    if len(directions) < k:
        return 0.0
    _, strength, span = torch.linalg.svd(directions.double(), full_matrices=False)
    if float(strength[k - 1]) <= 1e-6 * float(strength[0]):
        return 0.0  # the directions span fewer than k dimensions
    return float(torch.linalg.svdvals(span[:k] @ basis.double().T)[-1].clamp_max(1))
