"""Is a feature split over several latents, and does a latent combine several features (composition)?

A latent fires where its code exceeds `fires_above` (a tenth) of its largest on the validation samples, so that tiny
codes do not count. Let A be the samples in which latent j fires, P those in which the represented feature g is active,
and p the share of P:

    F1(A, P) = 2 |A & P| / (|A| + |P|),    kappa = (|A & P| / |A| - p) / (1 - p)

kappa is the latent's precision beyond chance: 0 for independent firing, whatever the feature's frequency; 1 at best. A
latent is a *piece* of the feature with which its F1 is highest, if it is alive (fires in at least `least_firings`
validation samples) and kappa is at least `precision` (.5).

    split_features       share of features with a piece for which the OR of several pieces has an F1 more than `jump`
                         (.03) above that of the best piece; in [0, 1], 0 is no splitting
    pieces_per_feature   mean over features with a piece of the number of pieces in that OR; at least 1, 1 is best
    composed_latents     share of alive latents that are composed: the AND of two features has an F1 with the latent's
                         firing more than `jump` above that of the best single feature, and the latent writes both. It
                         writes both if in the least-squares fit W_dec[j] ~ a f_g + b f_h the smaller of a and b is at
                         least `least` (.25) of the larger; in [0, 1], 0 is best
    features_per_latent  mean over alive latents whose direction contains any feature of the number it contains:
                         matching pursuit on the unit direction takes the feature with the largest inner product with
                         the residual, each at most once, while that is at least `held` (.3); at least 1, 1 is best

Pieces, pairs of features and their order are chosen on the validation samples; the F1s are then compared on the test
samples. True features score 0, 1, 0, 1. Chance: a latent that fires independently has kappa 0 and is nobody's piece;
where no feature has a piece, the first two scores are NaN. A random direction in d_in dimensions contains none of G
features with probability (1 - q)^G, with q = P[cos >= held] and cos^2 ~ Beta(1/2, (d_in - 1)/2), so in few dimensions
random directions score above 1 in features_per_latent.

Published variants: splitting is described by Bricken et al. 2023, 'Towards monosemanticity': one latent of a small
dictionary becomes several in a larger one, each for one context. The criterion is that of Chanin et al. 2024, 'A is
for absorption', where a feature is split if one more latent raises a k-sparse probe's F1 by more than .03; they find
the feature with a probe, here it is known, and the probe is an OR. Composition is that of Anders, Neo,
Hoelscher-Obermaier and Howard 2024, 'Sparse autoencoders find composed features in small toy models', and Leask et al.
2025, 'Sparse autoencoders do not find canonical units of analysis'; its criterion mirrors that of splitting.

A child's latent that absorbs the parent (family `absorption`) is a piece of the child, with which its F1 is highest, so
it does not split the parent. Copies that fire together do not split a feature; `uniqueness` counts them.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from sae.metric import Case, MetricConfig, Scores, mean
from sae.metrics._feature_firing import Firing, SingleFeatures
from sae.numerics.matching import unit

_CELLS = 2**22
"""Latents times features whose directions are compared at once."""
_PAIRS = 2**14
"""Latents with a pair of features whose directions are compared at once."""


class Config(MetricConfig):
    """Settings of the splitting and composition scores; needs ``truth`` and ``codes``.

    Vectors: `pieces` ``[n_features]``, NaN where a feature has none; `composed` and `features` ``[n_latents]``, NaN for
    a latent that is not alive.
    """

    kind: Literal["splitting"] = "splitting"
    fires_above: float = Field(0.1, ge=0, lt=1)
    """Share of a latent's largest code above which it fires."""
    precision: float = Field(0.5, gt=0, le=1)
    """Smallest kappa of a piece."""
    jump: float = Field(0.03, gt=0, lt=1)
    """Rise in F1 that makes a feature split or a latent composed."""
    least: float = Field(0.25, gt=0, le=1)
    """Smallest ratio of the smaller to the larger coefficient of the two features that a composed latent writes."""
    held: float = Field(0.3, gt=0, lt=1)
    """Smallest inner product at which a direction contains a feature."""
    most: int = Field(10, gt=1)
    """Largest number of pieces of a feature that are tried, and of features counted in a direction."""
    least_firings: int = Field(10, gt=0)
    """Smallest number of validation samples in which an alive latent fires."""

    needs: ClassVar[frozenset[str]] = frozenset({"truth", "codes"})

    def score(self, case: Case) -> Scores:
        truth = case.evidence.truth
        assert truth is not None
        largest = torch.stack([z.amax(0) for _, z in case.choose.blocks()]).amax(0)
        choose, test = (Firing.of_half(case, half, self.fires_above * largest) for half in ("choose", "test"))
        single = SingleFeatures.of(choose)
        alive = single.fired >= self.least_firings
        pieces = self.pieces(choose, test, single, alive)
        W_dec, f = case.dictionary.W_dec, truth.directions[truth.represented].float()
        composed = self.composed(choose, test, single, alive, W_dec, f)
        features = torch.zeros(len(W_dec), dtype=torch.int64, device=f.device)
        for part in torch.arange(len(W_dec)).split(max(1, _CELLS // max(1, len(f)))):
            features[part] = features_per_direction(unit(W_dec[part].float()), f, self.held, self.most)
        of_all = torch.full((len(truth.represented),), torch.nan, device=f.device)
        of_all[truth.represented] = pieces
        has_piece, has_feature = ~pieces.isnan(), alive & (features > 0)
        scalars = {
            "split_features": mean(pieces[has_piece] > 1),
            "pieces_per_feature": mean(pieces[has_piece]),
            "composed_latents": mean(composed[alive]),
            "features_per_latent": mean(features[has_feature]),
        }
        dead = ~alive
        vectors = {
            "pieces": of_all,
            "composed": composed.float().masked_fill(dead, torch.nan),
            "features": features.float().masked_fill(dead, torch.nan),
        }
        return Scores(scalars, vectors)

    def pieces(
        self, choose: Firing, test: Firing, single: SingleFeatures, alive: Bool[Tensor, " n_latents"]
    ) -> Float[Tensor, " n_represented"]:
        """The number of pieces in the OR of each feature; NaN for a feature without a piece."""
        count = torch.full((len(choose.active),), torch.nan, device=alive.device)
        if not len(count):
            return count
        feature, share = single.feature, choose.active / choose.n_rows
        precision = single.hits / single.fired.clamp_min(1)
        kappa = (precision - share[feature]) / (1 - share[feature]).clamp_min(1e-9)
        piece = (alive & (kappa >= self.precision)).nonzero()[:, 0]
        piece = piece[single.f1[piece].argsort(descending=True, stable=True)]
        count[feature[piece]] = 1
        several = (feature[piece].bincount(minlength=len(count)) > 1).nonzero()[:, 0].tolist()
        candidates = [piece[feature[piece] == g][: self.most] for g in several]
        if not several:
            return count
        on_choose, on_test = (half.of(torch.cat(candidates)) for half in (choose, test))
        begin = 0
        for g, latents in zip(several, candidates, strict=True):
            these = torch.arange(begin, begin + len(latents), device=latents.device)
            begin += len(latents)
            taken = choose.union(g, on_choose.dense(these).T > 0, self.jump)
            fires = on_test.dense(these[taken]).T > 0
            alone, together = test.f1(g, fires[0]), test.f1(g, fires.any(0))
            count[g] = len(taken) if together > alone + self.jump else 1
        return count

    def composed(
        self,
        choose: Firing,
        test: Firing,
        single: SingleFeatures,
        alive: Bool[Tensor, " n_latents"],
        W_dec: Float[Tensor, "n_latents d_in"],
        f: Float[Tensor, "n_represented d_in"],
    ) -> Bool[Tensor, " n_latents"]:
        """Which latents fire for the AND of two features and write both."""
        is_composed = torch.zeros_like(alive)
        if len(f) < 2:
            return is_composed
        first, best = single.top[:, 0], single.top_f1[:, 0]
        latent, rank = (alive & (best < 1 - self.jump))[:, None].expand(-1, single.top.shape[1] - 1).nonzero().T
        g, h = first[latent], single.top[latent, rank + 1]
        pieces = zip(*(part.split(_PAIRS) for part in (latent, g, h)), strict=True)
        writes = [writes_both(unit(W_dec[i].float()), f[j], f[k], self.least) for i, j, k in pieces]
        both = torch.cat([torch.zeros(0, dtype=torch.bool, device=g.device), *writes])
        latent, g, h = latent[both], g[both], h[both]
        rises = choose.f1_of_pair(latent, g, h) > best[latent] + self.jump
        latent, g, h = latent[rises], g[rises], h[rises]
        held_out = test.f1_of_pair(latent, g, h) > test.f1_of_pair(latent, g, g) + self.jump
        is_composed[latent[held_out]] = True
        return is_composed


def writes_both(
    w: Float[Tensor, "n d_in"], f: Float[Tensor, "n d_in"], g: Float[Tensor, "n d_in"], least: float
) -> Bool[Tensor, " n"]:
    """Whether the least-squares fit of each w by its f and g has positive coefficients, the smaller at least `least` of
    the larger. False where f and g are parallel, since they cannot be told apart."""
    along_f, along_g, overlap = (w * f).sum(1), (w * g).sum(1), (f * g).sum(1)
    a, b = along_f - overlap * along_g, along_g - overlap * along_f  # both times 1 - overlap^2
    return (torch.minimum(a, b) > 0) & (torch.minimum(a, b) >= least * torch.maximum(a, b)) & (overlap < 1 - 1e-6)


def features_per_direction(
    w: Float[Tensor, "n_latents d_in"], f: Float[Tensor, "n_features d_in"], at_least: float, most: int
) -> Int[Tensor, " n_latents"]:
    """The number of features, at most `most`, that matching pursuit takes from each direction before all inner products
    with the residual are below `at_least`."""
    residual = w.clone()
    count = torch.zeros(len(w), dtype=torch.int64, device=w.device)
    taken = torch.zeros(len(w), len(f), dtype=torch.bool, device=w.device)
    going = torch.arange(len(w), device=w.device)
    for _ in range(min(most, len(f))):
        along, best = (residual[going] @ f.T).masked_fill(taken[going], -torch.inf).max(1)
        more = along >= at_least
        going, along, best = going[more], along[more], best[more]
        if not len(going):
            break
        count[going] += 1
        taken[going, best] = True
        residual[going] -= along[:, None] * f[best]
    return count
