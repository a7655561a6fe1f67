"""Whether latents span the subspace of a feature that is more than a direction, and how many share it.

For a subspace with orthonormal basis B ``[k, d_in]`` (a circle's plane, say) the group of latents G are those that fire
on a test row and whose unit direction w lies in it, ``||B w|| >= min_cosine``:

    subspace_cosine       cosine of the largest angle between B and the span of G's directions (of the k that they
                          span best, by singular values); 0 where G has fewer than k
    latents_per_subspace  |G|

means over subspaces. A dictionary that has parted features from one another has `subspace_cosine` near 1, whatever it
makes of the places within; `latents_per_subspace` says into how many pieces it cuts them, k at the least. In few
dimensions chance directions lie near a subspace too: read both beside random directions.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from sae.metric import Case, MetricConfig, Scores
from sae.numerics.matching import unit


class Config(MetricConfig):
    """Needs ``subspaces``. Vectors, ``[n_subspaces]``: `cosine` and `latents`."""

    kind: Literal["subspace"] = "subspace"
    min_cosine: float = Field(0.9, gt=0, le=1)

    needs: ClassVar[frozenset[str]] = frozenset({"subspaces"})

    def score(self, case: Case) -> Scores:
        subspaces = case.evidence.subspaces
        assert subspaces is not None
        directions = unit(case.dictionary.W_dec[(case.test_codes != 0).any(0)].float())
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
