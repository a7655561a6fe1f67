"""Feature absorption in trees of known features: does a child's latent take over its parent's direction?

A sparsity penalty rewards a dictionary that writes parent + child with one latent and leaves the parent's latent
silent wherever the child is active (Chanin et al. 2024, 'A is for absorption').

Each feature f is assigned one latent w by the one-to-one matching of the family `recovery`. It is *found* if their
signed cosine is at least `min_cosine`. For a found parent p, let P be the test samples in which p is active, with
coefficient a > 0, and in each of them let D be the active descendants of p (children, their children, ...). The firing
latent of a descendant d contributes along the parent's direction

    b_d = z_d ||W_dec[d]|| e_d,    e_d = cos(w_d, f_p) - cos(f_d, f_p),

more than the feature d itself does. The parent's latent contributes M = z_p (W_dec[p] . f_p).

    parents_found         share of represented features with a represented child that are found; 1 is best
    parent_recall_child   share of the samples of P with non-empty D in which p's latent fires; 1 is best
    parent_recall_alone   the same over the samples with empty D; 1 is best. If it is higher than
                          parent_recall_child, children suppress the parent's latent
    absorption_full       share of P in which p's latent is silent and some d in D has e_d >= .025 and b_d >= .4 a;
                          0 is best
    absorption_fraction   mean over P of A / (A + max(M, 0)), with A the sum of max(b_d, 0) over the d in D with
                          e_d >= .1; 0 where M >= a; samples with A = 0 and M <= 0 are left out; 0 is best
    child_in_parent       mean over children c of found parents of cos(w_p, f_c) - cos(f_p, f_c); 0 is best
    parent_in_child       mean over found children c of e_c; 0 is best

The first five lie in [0, 1]; recalls and absorption rates are means over parents, each counting once. The last two
are differences of cosines. child_in_parent > 0 means that the parent's latent contains the child, which is hedging
(Chanin et al. 2025, 'Feature hedging'); parent_in_child > 0 means that the child's latent contains the parent, which is
absorption.

Published variant: the thresholds are those of SAEBench 0.6.0. There, absorption is full if the best latent has a cosine
above .025 with a probe and at least .4 of the projection, and at most three latents above .1 absorb in part. SAEBench
finds the parent with a probe and searches for the absorbing latents; here both are known.

The rates are NaN where no parent is found. The absorption rates of a parent are NaN if its latent never fires in P and
no other latent replaces it. SAEBench gives a dictionary that has learnt nothing a score near 0, which is the best.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from sae.metric import Case, MetricConfig, Scores, mean
from sae.numerics.active_codes import ActiveCodes

RATES = ("parent_recall_child", "parent_recall_alone", "absorption_full", "absorption_fraction")
ABSORPTION_SCORES = ("parents_found", *RATES, "child_in_parent", "parent_in_child")


class Config(MetricConfig):
    """Settings of the absorption scores; needs ``truth``, ``codes`` and ``parents``.

    Vectors, ``[n_features]``: the four rates in `RATES` for each parent, NaN elsewhere and where undefined.
    """

    kind: Literal["absorption"] = "absorption"
    min_cosine: float = Field(0.5, gt=0, le=1)
    """Smallest signed cosine with its assigned latent at which a feature counts as found."""
    full_cosine: float = Field(0.025, gt=0, le=1)
    """Smallest e_d of a latent that absorbs in full."""
    full_share: float = Field(0.4, gt=0, le=1)
    """Smallest contribution b_d of a latent that absorbs in full, as a share of the parent's coefficient."""
    fraction_cosine: float = Field(0.1, gt=0, le=1)
    """Smallest e_d of a latent that counts towards the absorbed fraction."""

    needs: ClassVar[frozenset[str]] = frozenset({"truth", "codes", "parents"})

    def score(self, case: Case) -> Scores:
        forest = Forest.of(case)
        found = forest.cosine >= self.min_cosine
        parents = forest.parent.unique()
        rates = torch.full((len(RATES), len(found)), torch.nan, dtype=torch.float64, device=found.device)
        codes = ForestCodes.of(case, forest)
        for p in parents[found[parents]].tolist():
            rates[:, p] = self.parent_rates(case, forest, codes, p)
        scalars = {
            "parents_found": mean(found[parents]),
            **dict(zip(RATES, rates.nanmean(1).tolist(), strict=True)),
            "child_in_parent": mean(forest.excess(forest.parent, forest.child)[found[forest.parent]]),
            "parent_in_child": mean(forest.excess(forest.child, forest.parent)[found[forest.child]]),
        }
        return Scores(scalars, dict(zip(RATES, rates.float(), strict=True)))

    def parent_rates(self, case: Case, forest: Forest, z: ForestCodes, p: int) -> Float[Tensor, " 4"]:
        """The four rates in `RATES` of a found parent."""
        d, codes = case.dictionary, case.evidence.test.codes
        assert codes is not None
        rows = (codes[:, p] > 0).nonzero()[:, 0]
        below = forest.descendants(p)
        a, active = codes[rows, p], codes[rows[:, None], below] > 0
        parent_latent = forest.latent[p]
        z_parent = z.of_features(torch.tensor([p], device=rows.device))[rows, 0]
        fires, with_child = z_parent != 0, active.any(1)
        found_below = forest.latent[below] >= 0
        latent = forest.latent[below][found_below]
        excess = forest.excess(below[found_below], torch.full_like(latent, p))
        extra = (
            z.of_features(below[found_below])[rows] * d.W_dec[latent].norm(dim=1) * excess * active[:, found_below]
        )  # b_d
        full = ~fires & ((extra >= self.full_share * a[:, None]) & (excess >= self.full_cosine)).any(1)
        absorbed = (extra * (excess >= self.fraction_cosine)).clamp_min(0).sum(1)
        by_parent = (z_parent * (forest.latents[parent_latent] @ forest.directions[p])).clamp_min(0)
        part = (absorbed / (absorbed + by_parent)).masked_fill(by_parent >= a, 0)  # 0 / 0 is NaN
        defined = bool(fires.any() | full.any())
        return torch.stack(
            [
                fires[with_child].double().mean(),
                fires[~with_child].double().mean(),
                full.double().mean() if defined else part.new_tensor(torch.nan).double(),
                part.double().nanmean(),
            ]
        )


@dataclass(frozen=True)
class ForestCodes:
    """The codes of the latents of the features in the pairs of parent and child."""

    place: Int[Tensor, " n_features"]
    """The number of each feature in `codes`; -1 for a feature in no pair, or without a latent."""
    codes: ActiveCodes
    """Their latents' codes of the test samples."""

    @classmethod
    def of(cls, case: Case, forest: Forest) -> ForestCodes:
        feature = torch.cat([forest.child, forest.parent]).unique()
        feature = feature[forest.latent[feature] >= 0]
        place = torch.full_like(forest.latent, -1)
        place[feature] = torch.arange(len(feature), device=feature.device)
        return cls(place, case.test.at(forest.latent[feature]))

    def of_features(self, features: Int[Tensor, " n"]) -> Float[Tensor, "rows n"]:
        """The codes of the latents of these features."""
        return self.codes.dense(self.place[features])


@dataclass(frozen=True)
class Forest:
    """Features with their assigned latents, and the pairs of parent and child among the represented ones."""

    directions: Float[Tensor, "n_features d_in"]
    """Directions of the features."""
    latents: Float[Tensor, "n_latents d_in"]
    """Decoder rows."""
    latent: Int[Tensor, " n_features"]
    """The latent assigned to each feature, -1 for none."""
    cosine: Float[Tensor, " n_features"]
    """The cosine of each feature with its assigned latent, NaN for none."""
    child: Int[Tensor, " n_pairs"]
    """The child of each pair."""
    parent: Int[Tensor, " n_pairs"]
    """The parent of each pair."""

    @classmethod
    def of(cls, case: Case) -> Forest:
        truth, matching = case.evidence.truth, case.matching
        assert truth is not None and truth.parents is not None
        latent = torch.full_like(truth.parents, -1)
        latent[matching.feature] = matching.latent
        cosine = torch.full(latent.shape, torch.nan, device=latent.device)
        has = latent >= 0
        directions, latents = truth.directions.float(), case.dictionary.W_dec.float()
        cosine[has] = torch.cosine_similarity(directions[has], latents[latent[has]], dim=1)
        pair = (truth.parents >= 0) & truth.represented & truth.represented[truth.parents]
        child = pair.nonzero()[:, 0]
        return cls(directions, latents, latent, cosine, child, truth.parents[child])

    def descendants(self, p: int) -> Int[Tensor, " n"]:
        """The represented descendants of feature p."""
        generations = [self.child[self.parent == p]]
        while len(generations[-1]):
            generations.append(self.child[torch.isin(self.parent, generations[-1])])
        return torch.cat(generations)

    def excess(self, of: Int[Tensor, " n"], over: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """``cos(w_f, g) - cos(f, g)`` for each feature f in `of` and g in `over`, with w_f the latent of f; NaN for a
        feature without a latent."""
        f, g = self.directions[of], self.directions[over]
        of_latent = torch.cosine_similarity(self.latents[self.latent[of]], g, dim=1)
        return (of_latent - torch.cosine_similarity(f, g, dim=1)).masked_fill(self.latent[of] < 0, torch.nan)
