"""Are the true features among the decoder rows? Cosines between feature directions and latent directions.

With S_gj = cos(f_g, W_dec[j]), signed, over the features g that the activations represent:

    mmcs_truth      mean_g max_j S_gj, the mean max cosine similarity of features; like a recall, it never falls when
                    latents are added
    mmcs_latents    mean_j max_g S_gj, the mean max cosine similarity of latents; like a precision, every latent that
                    is no feature lowers it
    mcc             sum of S over the best one-to-one assignment, divided by min(n_features, n_latents)
    mcc_all         the same sum divided by max(n_features, n_latents); whatever has no partner counts 0
    recovered_80    share of features with max_j S_gj > .8
    recovered_90    share of features with max_j S_gj > .9
    uniqueness      number of different features argmax_g S_gj, divided by n_latents; at most n_features / n_latents
    n_represented   number of represented features
    false_recovery  share of latents that point along a feature which is *not* represented, with a cosine above .9 and
                    above that with any represented feature; 0 is best
    mmcs_decile_1   mmcs_truth of the rarest tenth of the features, ..., mmcs_decile_10 of the most frequent; left out
                    where no probabilities are known

Cosine scores lie in [-1, 1], shares in [0, 1]; 1 is best, except for false_recovery. Chance is well above 0, rises with
n_latents and falls with d_in (512 random latents and 512 features in 256 dimensions: mmcs .190, mcc .180): always
compare with random directions of the same shape.

Published variants: `mmcs_truth` is the MMCS of Sharkey, Braun and Millidge 2022. sparse_coding calls `mmcs_latents`
mmcs_to_fixed and the other direction representedness. SAELens' MCC and uniqueness take |S| instead of S, and its MCC is
over the smaller side; both equal ours where matched cosines are positive (in the random example: .192 absolute, .180
signed). The MCC of O'Neill et al. 2024 correlates codes, not directions (family `codes`). Korznikov et al. 2026 count a
feature as recovered at .8, sparse_coding at .9.

`false_recovery` counts latents that represent features whose direction is known (not zero) but which the activations
carry too weakly to count. It is NaN if there is no such feature. Unrepresented features that point along a represented
one are left out, since the two cannot be told apart.

A zero decoder row has cosine 0 with everything and is nobody's argmax. The assignment maximises the sum of signed
cosines (Hungarian algorithm) if the larger side has at most `sae.numerics.matching.LARGEST_ASSIGNMENT`; beyond that mcc
and mcc_all are NaN. The decoder rows of a transcoder are directions in its target space and are compared with true
directions there.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sae.metric import Case, MetricConfig, Scores, decile_scores, mean
from sae.numerics.matching import MERGED, Matching, cosines
from sae.source import Truth

RECOVERED = 0.9
_NAMES = ("mmcs_truth", "mmcs_latents", "mcc", "mcc_all", "recovered_80", "recovered_90", "uniqueness")


class Config(MetricConfig):
    """Settings of the recovery scores; needs ``truth``.

    Vectors, ``[n_features]``: `best_cosine` (NaN where not represented), `matched_latent` (-1 for none), `probability`
    and `represented`.
    """

    kind: Literal["recovery"] = "recovery"
    needs: ClassVar[frozenset[str]] = frozenset({"truth"})

    def score(self, case: Case) -> Scores:
        truth, matching = case.evidence.truth, case.matching
        assert truth is not None
        best_cosine = torch.full_like(truth.probability, torch.nan, dtype=torch.float32)
        best_cosine[matching.feature] = matching.cosine.amax(1)
        matched = torch.full(best_cosine.shape, -1, device=best_cosine.device)
        if matching.latent is not None:
            matched[matching.feature] = matching.latent
        vectors = {
            "best_cosine": best_cosine,
            "matched_latent": matched,
            "probability": truth.probability,
            "represented": truth.represented,
        }
        scalars = {
            **_compare(matching, truth.probability[matching.feature]),
            "n_represented": float(truth.represented.sum()),
            "false_recovery": false_recovery(truth, matching, case.dictionary.W_dec),
        }
        return Scores(scalars, vectors)


def _compare(matching: Matching, probability: Float[Tensor, " n_represented"]) -> dict[str, float]:
    """The scalars that compare features with latents; NaN where no feature is represented."""
    if len(matching.feature) == 0:
        return dict.fromkeys(_NAMES, float("nan"))
    best = matching.cosine.amax(1)
    scalars = {
        "mmcs_truth": mean(best),
        "mmcs_latents": mean(matching.cosine.amax(0)),
        **assigned(matching),
        "recovered_80": mean(best > 0.8),
        "recovered_90": mean(best > RECOVERED),
        "uniqueness": uniqueness(matching.cosine),
    }
    return scalars | decile_scores("mmcs", best, probability)


def assigned(matching: Matching) -> dict[str, float]:
    """`mcc` and `mcc_all`."""
    smaller, larger = sorted(matching.cosine.shape)
    total = float("nan")
    if matching.latent is not None:
        has = matching.latent >= 0
        total = float(matching.cosine[has, matching.latent[has]].sum(dtype=torch.float64))
    return {"mcc": total / smaller, "mcc_all": total / larger}


def uniqueness(cosine: Float[Tensor, "n_represented n_latents"]) -> float:
    """Number of different nearest features divided by n_latents; at most ``n_represented / n_latents``."""
    alive = (cosine != 0).any(0)
    return len(cosine.argmax(0)[alive].unique()) / cosine.shape[1]


def false_recovery(truth: Truth, matching: Matching, W_dec: Float[Tensor, "n_latents d_in"]) -> float:
    """Share of latents whose nearest feature is an unrepresented one, with a cosine above .9; NaN where there is none.

    An unrepresented feature with a cosine above `MERGED` to a represented one is left out: a latent that finds one
    finds both.
    """
    represented = truth.directions[truth.represented]
    ignored = truth.directions[~truth.represented & (truth.directions.norm(dim=1) > 0)]
    if len(represented):
        ignored = ignored[cosines(ignored, represented).amax(1) <= MERGED]
    if not len(ignored):
        return float("nan")
    nearest = cosines(ignored, W_dec).amax(0)
    if len(represented):
        nearest = nearest.masked_fill(matching.cosine.amax(0) >= nearest, 0)
    return mean(nearest > RECOVERED)
