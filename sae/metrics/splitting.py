"""Whether one feature is cut into several latents (splitting), or several features are put into one (composition).

A latent fires where its code exceeds a tenth of its largest on the choose rows, so that the dust of small codes does
not count. A is the set of rows in which latent j fires, P that in which feature g is active, p the share of P; over
the represented features,

    F1(A, P) = 2 |A & P| / (|A| + |P|),    kappa = (|A & P| / |A| - p) / (1 - p)

kappa is the latent's precision beyond chance: 0 where both are independent, however frequent the feature. A latent is
a *piece* of the feature with which its F1 is highest, where it has fired often enough and kappa is at least .5.

    split_features       share of features with a piece that are split: the OR of several of their pieces has an F1
                         higher by more than `jump` than the best piece alone
    pieces_per_feature   mean over features with a piece of how many are taken into that OR; 1 is right
    composed_latents     share of living latents that are composed: the AND of two features has, with the latent's
                         firing, an F1 higher by more than `jump` than the best feature alone, and the latent writes
                         both: in W_dec[j] ~ a f_g + b f_h (least squares) the smaller of a and b is at least `least`
                         of the larger
    features_per_latent  mean over living latents whose direction holds any feature of how many it holds: matching
                         pursuit on the unit direction takes the feature with the largest inner product with what is
                         left, each once, as long as that is at least `features_per_direction`; 1 is right

Pieces, pairs of features and their order are chosen on the choose rows; whether the F1 rises is asked of the test
rows. Splitting as Bricken et al. 2023 ('Towards monosemanticity') describe it: what one latent says in a small
dictionary is said by several in a larger one, each in its own context. The criterion is that of Chanin et al. 2024 ('A
is for absorption'), who call a feature split where one more latent raises a k-sparse probe's F1 by more than .03; they
look for the feature with a probe, here it is known, and the probe is an OR. Composition is that of Anders, Neo,
Hoelscher-Obermaier and Howard 2024 ('Sparse autoencoders find composed features in small toy models') and Leask et al.
2025 ('Sparse autoencoders do not find canonical units of analysis'); the criterion mirrors that of splitting.

A latent that swallows its parent (:mod:`sae.metrics.absorption`) is a piece of the child, whose rows it tells best,
and so does not split the parent. Copies that fire together split nothing; `uniqueness` counts them. For the truth the
scores are 0, 1, 0, 1. Chance: a latent that fires independently has kappa 0 and F1 below 2p / (1 + p), and is nobody's
piece; where no feature has a piece the first two are NaN. A random direction of d_in dimensions holds none of G
features with probability (1 - q)^G, q = P[cos >= held], cos^2 ~ Beta(1/2, (d_in - 1)/2): in few dimensions
`features_per_latent` of chance exceeds 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from sae.metric import Case, MetricConfig, Scores, mean
from sae.numerics.matching import unit

_ROWS_AT_ONCE = 4096
RIVALS = 4
"""How many features beside the best are tried as the second of a pair."""


class Config(MetricConfig):
    """Needs ``truth`` and ``codes``. Vectors: `pieces` ``[n_features]``, NaN where a feature has none; `composed` and
    `features` ``[n_latents]``, NaN for a latent that has fired on fewer than `least_firings` choose rows."""

    kind: Literal["splitting"] = "splitting"
    fires_above: float = Field(0.1, ge=0, lt=1)
    precision: float = Field(0.5, gt=0, le=1)
    jump: float = Field(0.03, gt=0, lt=1)
    least: float = Field(0.25, gt=0, le=1)
    held: float = Field(0.3, gt=0, lt=1)
    most: int = Field(10, gt=1)
    least_firings: int = Field(10, gt=0)

    needs: ClassVar[frozenset[str]] = frozenset({"truth", "codes"})

    def score(self, case: Case) -> Scores:
        truth = case.evidence.truth
        assert truth is not None
        largest = case.choose_codes.amax(0)
        choose, test = (Firing.of(case, half, self.fires_above * largest) for half in ("choose", "test"))
        hits = choose.together()
        f1 = 2 * hits / (choose.fired[:, None] + choose.active[None]).clamp_min(1)
        living = choose.fired >= self.least_firings
        pieces = self.pieces(choose, test, hits, f1, living)
        w, f = unit(case.dictionary.W_dec.float()), truth.directions[truth.represented].float()
        composed = self.composed(choose, test, f1, living, w, f)
        features = features_per_direction(w, f, self.held, self.most)
        whole = torch.full((len(truth.represented),), torch.nan, device=f.device)
        whole[truth.represented] = pieces
        found, some = ~pieces.isnan(), living & (features > 0)
        scalars = {
            "split_features": mean(pieces[found] > 1),
            "pieces_per_feature": mean(pieces[found]),
            "composed_latents": mean(composed[living]),
            "features_per_latent": mean(features[some]),
        }
        dead = ~living
        vectors = {
            "pieces": whole,
            "composed": composed.float().masked_fill(dead, torch.nan),
            "features": features.float().masked_fill(dead, torch.nan),
        }
        return Scores(scalars, vectors)

    def pieces(
        self,
        choose: Firing,
        test: Firing,
        hits: Float[Tensor, "n_latents n_represented"],
        f1: Float[Tensor, "n_latents n_represented"],
        living: Bool[Tensor, " n_latents"],
    ) -> Float[Tensor, " n_represented"]:
        """How many latents tell each feature together; NaN where none does."""
        count = torch.full((f1.shape[1],), torch.nan, device=f1.device)
        if not f1.shape[1]:
            return count
        best, feature = f1.max(1)
        share = choose.active / choose.n_rows
        precision = hits.gather(1, feature[:, None])[:, 0] / choose.fired.clamp_min(1)
        kappa = (precision - share[feature]) / (1 - share[feature]).clamp_min(1e-9)
        piece = (living & (kappa >= self.precision)).nonzero()[:, 0]
        piece = piece[best[piece].argsort(descending=True, stable=True)]
        count[feature[piece]] = 1
        several = (feature[piece].bincount(minlength=len(count)) > 1).nonzero()[:, 0]
        for g in several.tolist():
            own = piece[feature[piece] == g][: self.most]
            taken = choose.union(g, own, self.jump)
            alone, together = test.f1(g, taken[:1]), test.f1(g, taken)
            count[g] = len(taken) if together > alone + self.jump else 1
        return count

    def composed(
        self,
        choose: Firing,
        test: Firing,
        f1: Float[Tensor, "n_latents n_represented"],
        living: Bool[Tensor, " n_latents"],
        w: Float[Tensor, "n_latents d_in"],
        f: Float[Tensor, "n_represented d_in"],
    ) -> Bool[Tensor, " n_latents"]:
        """Which latents fire for, and write, two features at once."""
        found = torch.zeros_like(living)
        if f1.shape[1] < 2:
            return found
        top = f1.topk(min(RIVALS + 1, f1.shape[1]), dim=1)
        first, single = top.indices[:, 0], top.values[:, 0]
        latent, rank = (living & (single < 1 - self.jump))[:, None].expand(-1, top.indices.shape[1] - 1).nonzero().T
        g, h = first[latent], top.indices[latent, rank + 1]
        both = writes_both(w[latent], f[g], f[h], self.least)
        latent, g, h = latent[both], g[both], h[both]
        rises = choose.f1_of_pair(latent, g, h) > single[latent] + self.jump
        latent, g, h = latent[rises], g[rises], h[rises]
        held_out = test.f1_of_pair(latent, g, h) > test.f1_of_pair(latent, g, g) + self.jump
        found[latent[held_out]] = True
        return found


@dataclass(frozen=True)
class Firing:
    """Rows in which each latent fires and in which each represented feature is active; `by_row` is `fires` turned."""

    fires: Bool[Tensor, "n_latents rows"]
    is_active: Bool[Tensor, "n_represented rows"]
    by_row: Bool[Tensor, "rows n_latents"]
    fired: Int[Tensor, " n_latents"]
    active: Int[Tensor, " n_represented"]

    @classmethod
    def of(cls, case: Case, half: Literal["choose", "test"], above: Float[Tensor, " n_latents"]) -> Firing:
        evidence = case.evidence
        batch, z = (evidence.choose, case.choose_codes) if half == "choose" else (evidence.test, case.test_codes)
        assert batch.codes is not None and evidence.truth is not None
        fires, is_active = z > above, batch.codes[:, evidence.truth.represented] > 0
        return cls(fires.T.contiguous(), is_active.T.contiguous(), fires, _count(fires), _count(is_active))

    @property
    def n_rows(self) -> int:
        return self.fires.shape[1]

    def together(self) -> Float[Tensor, "n_latents n_represented"]:
        """``|A & P|`` of all pairs; features are sparse even where latents are not."""
        return (self.is_active.float().to_sparse() @ self.by_row.float()).T

    def f1(self, g: int, latents: Int[Tensor, " n"]) -> float:
        """F1 of the OR of some latents with feature g."""
        return self._f1_of_rows(self.fires[latents].any(0), g)

    def union(self, g: int, latents: Int[Tensor, " n"], jump: float) -> Int[Tensor, " taken"]:
        """Those of the latents, in their order, that each raise the F1 of the OR so far by more than `jump`."""
        taken = [int(latents[0])]
        covered = self.fires[taken[0]]
        best = self._f1_of_rows(covered, g)
        for j in latents[1:].tolist():
            wider = covered | self.fires[j]
            f1 = self._f1_of_rows(wider, g)
            if f1 > best + jump:
                taken, covered, best = [*taken, j], wider, f1
        return torch.tensor(taken, device=latents.device)

    def f1_of_pair(self, latent: Int[Tensor, " n"], g: Int[Tensor, " n"], h: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """F1 of each latent with the AND of two features."""
        found = [torch.zeros(0, device=self.fires.device)]
        for j, a, b in zip(latent.split(1024), g.split(1024), h.split(1024), strict=True):
            both = self.is_active[a] & self.is_active[b]
            total = self.fired[j] + both.sum(1)
            found.append(2 * (both & self.fires[j]).sum(1) / total.clamp_min(1))
        return torch.cat(found)

    def _f1_of_rows(self, rows: Bool[Tensor, " rows"], g: int) -> float:
        total = int(rows.sum() + self.active[g])
        return 2 * int((rows & self.is_active[g]).sum()) / total if total else 0.0


def writes_both(
    w: Float[Tensor, "n d_in"], f: Float[Tensor, "n d_in"], g: Float[Tensor, "n d_in"], least: float
) -> Bool[Tensor, " n"]:
    """Whether least squares of each w on its f and g has coefficients above 0, the smaller at least `least` of the
    larger; features that point one way cannot be told apart, and do not count."""
    along_f, along_g, overlap = (w * f).sum(1), (w * g).sum(1), (f * g).sum(1)
    a, b = along_f - overlap * along_g, along_g - overlap * along_f  # times 1 - overlap^2 on both
    return (torch.minimum(a, b) > 0) & (torch.minimum(a, b) >= least * torch.maximum(a, b)) & (overlap < 1 - 1e-6)


def features_per_direction(
    w: Float[Tensor, "n_latents d_in"], f: Float[Tensor, "n_features d_in"], at_least: float, most: int
) -> Int[Tensor, " n_latents"]:
    """How many features matching pursuit takes from each direction before all inner products are below `at_least`."""
    left = w.clone()
    count = torch.zeros(len(w), dtype=torch.int64, device=w.device)
    taken = torch.zeros(len(w), len(f), dtype=torch.bool, device=w.device)
    going = torch.arange(len(w), device=w.device)
    for _ in range(min(most, len(f))):
        along, best = (left[going] @ f.T).masked_fill(taken[going], -torch.inf).max(1)
        more = along >= at_least
        going, along, best = going[more], along[more], best[more]
        if not len(going):
            break
        count[going] += 1
        taken[going, best] = True
        left[going] -= along[:, None] * f[best]
    return count


def _count(columns: Bool[Tensor, "rows n"]) -> Int[Tensor, " n"]:
    """How many are true in each column; as floats, several times faster than as booleans, and exact."""
    return torch.stack([piece.float().sum(0) for piece in columns.split(_ROWS_AT_ONCE)]).sum(0).long()
