"""Whether the latents of children swallow their parent: absorption and mixing in trees of known features.

Sparsity rewards a dictionary that writes parent + child with one latent, and then lets the parent's latent be silent
wherever the child is active (Chanin et al. 2024, 'A is for absorption'). There the parent is a letter found by a
probe, and the absorbing latent is looked for; here both are known. Every feature has the latent w of the one-to-one
assignment of :mod:`sae.metrics.recovery`, and is *found* where its signed cosine with it is at least `min_cosine`. Let
p be a found parent, P the test rows in which it is active with coefficient a > 0, and in each of them D the features
below p (children, their children, ...) that are active. A latent of D that fires brings along, of p's direction,

    b_d = z_d ||W_dec[d]|| e_d,    e_d = cos(w_d, f_p) - cos(f_d, f_p),

more than the child itself would. M = z_p (W_dec[p] . f_p) is what p's own latent brings.

    parents_found         share of represented features with a represented child that are found
    parent_recall_child   share of the rows of P with D not empty in which p's latent fires
    parent_recall_alone   the same of the rows with D empty: the gap between the two is what children cost
    absorption_full       share of P in which p's latent is silent, and some d of D fires with e_d >= .025 and
                          b_d >= .4 a
    absorption_fraction   mean over P of A / (A + max(M, 0)), A the sum of max(b_d, 0) over the d of D with e_d >= .1;
                          0 where M >= a; rows with A + M = 0 tell nothing and are left out
    child_in_parent       mean over children c of found parents of cos(w_p, f_c) - cos(f_p, f_c)
    parent_in_child       mean over found children c of e_c

Recalls, rates and fractions are means over parents, each counting once. The last two are 0 for the truth: a latent that
hedges (Chanin et al. 2025, 'Feature hedging') has its child mixed in, the latent of an absorbing child its parent.
Thresholds are those of SAEBench 0.6.0, where absorption is full when the best latent has a cosine above .025 with the
probe and at least .4 of the projection, and at most three absorb in part, above .1.

Where no parent is found, and where a parent's latent never fires in P and nothing takes its place, there is nothing to
absorb: NaN, where SAEBench gives a dictionary that has learnt nothing a score near 0, the best.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from sae.metric import Case, MetricConfig, Scores, mean

RATES = ("parent_recall_child", "parent_recall_alone", "absorption_full", "absorption_fraction")
ABSORPTION_SCORES = ("parents_found", *RATES, "child_in_parent", "parent_in_child")


class Config(MetricConfig):
    """Needs ``truth``, ``codes`` and ``parents``. Vectors, ``[n_features]``: the four rates of each parent, NaN
    elsewhere and where undefined."""

    kind: Literal["absorption"] = "absorption"
    min_cosine: float = Field(0.5, gt=0, le=1)
    full_cosine: float = Field(0.025, gt=0, le=1)
    full_share: float = Field(0.4, gt=0, le=1)
    fraction_cosine: float = Field(0.1, gt=0, le=1)

    needs: ClassVar[frozenset[str]] = frozenset({"truth", "codes", "parents"})

    def score(self, case: Case) -> Scores:
        if case.matching.latent is None:
            return Scores(dict.fromkeys(ABSORPTION_SCORES, float("nan")))
        forest = Forest.of(case)
        found = forest.cosine >= self.min_cosine
        parents = forest.parent.unique()
        rates = torch.full((len(RATES), len(found)), torch.nan, dtype=torch.float64, device=found.device)
        for p in parents[found[parents]].tolist():
            rates[:, p] = self.judge(case, forest, p)
        scalars = {
            "parents_found": mean(found[parents]),
            **dict(zip(RATES, rates.nanmean(1).tolist(), strict=True)),
            "child_in_parent": mean(forest.excess(forest.parent, forest.child)[found[forest.parent]]),
            "parent_in_child": mean(forest.excess(forest.child, forest.parent)[found[forest.child]]),
        }
        return Scores(scalars, dict(zip(RATES, rates.float(), strict=True)))

    def judge(self, case: Case, forest: Forest, p: int) -> Float[Tensor, " 4"]:
        """The four rates of a found parent."""
        d, codes, z = case.dictionary, case.evidence.test.codes, case.test_codes
        assert codes is not None
        rows = (codes[:, p] > 0).nonzero()[:, 0]
        below = forest.below(p)
        a, active = codes[rows, p], codes[rows[:, None], below] > 0
        own = forest.latent[p]
        fires, with_child = z[rows, own] != 0, active.any(1)
        found_below = forest.latent[below] >= 0
        latent = forest.latent[below][found_below]
        excess = forest.excess(below[found_below], torch.full_like(latent, p))
        brought = z[rows[:, None], latent] * d.W_dec[latent].norm(dim=1) * excess * active[:, found_below]
        full = ~fires & ((brought >= self.full_share * a[:, None]) & (excess >= self.full_cosine)).any(1)
        absorbed = (brought * (excess >= self.fraction_cosine)).clamp_min(0).sum(1)
        kept = (z[rows, own] * (forest.latents[own] @ forest.directions[p])).clamp_min(0)
        part = (absorbed / (absorbed + kept)).masked_fill(kept >= a, 0)  # 0 / 0 is NaN
        seen = bool(fires.any() | full.any())
        return torch.stack(
            [
                fires[with_child].double().mean(),
                fires[~with_child].double().mean(),
                full.double().mean() if seen else part.new_tensor(torch.nan).double(),
                part.double().nanmean(),
            ]
        )


@dataclass(frozen=True)
class Forest:
    """Represented features, their latents and their families.

    `latent` and `cosine` have an entry for each feature: the assigned latent, -1 for none, and the cosine with it,
    NaN for none. `child` and `parent` are the pairs of represented features.
    """

    directions: Float[Tensor, "n_features d_in"]
    latents: Float[Tensor, "n_latents d_in"]
    latent: Int[Tensor, " n_features"]
    cosine: Float[Tensor, " n_features"]
    child: Int[Tensor, " n_pairs"]
    parent: Int[Tensor, " n_pairs"]

    @classmethod
    def of(cls, case: Case) -> Forest:
        truth, matching = case.evidence.truth, case.matching
        assert truth is not None and truth.parents is not None and matching.latent is not None
        latent = torch.full_like(truth.parents, -1)
        latent[matching.feature] = matching.latent
        cosine = torch.full(latent.shape, torch.nan, device=latent.device)
        has = latent >= 0
        directions, latents = truth.directions.float(), case.dictionary.W_dec.float()
        cosine[has] = torch.cosine_similarity(directions[has], latents[latent[has]], dim=1)
        pair = (truth.parents >= 0) & truth.represented & truth.represented[truth.parents]
        child = pair.nonzero()[:, 0]
        return cls(directions, latents, latent, cosine, child, truth.parents[child])

    def below(self, p: int) -> Int[Tensor, " n"]:
        """The represented descendants of p."""
        found = [self.child[self.parent == p]]
        while len(found[-1]):
            found.append(self.child[torch.isin(self.parent, found[-1])])
        return torch.cat(found)

    def excess(self, of: Int[Tensor, " n"], over: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """How much more the latents of some features point along others than those features do themselves; NaN for a
        feature without a latent."""
        f, g = self.directions[of], self.directions[over]
        found = torch.cosine_similarity(self.latents[self.latent[of]], g, dim=1)
        return (found - torch.cosine_similarity(f, g, dim=1)).masked_fill(self.latent[of] < 0, torch.nan)
