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
cosines: by the Hungarian algorithm for up to `sae.numerics.assignment.DENSE_PAIRS` pairs, beyond that over the largest
cosines of each direction of the smaller side, to which others are added until none is left that could raise the sum.
Should that not end within `sae.numerics.assignment.MOST_ROUNDS` rounds, mcc and mcc_all may be too low; mcc_unproven is
then the share of the smaller side with a cosine that could still raise the sum, and left out where it is 0. The decoder
rows of a transcoder are directions in its target space and are compared with true directions there.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sae.metric import Case, MetricConfig, Scores, decile_scores, mean
from sae.numerics.matching import MERGED, Cosines, Matching
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
        best_cosine[matching.feature] = matching.nearest_latent.cosine
        matched = torch.full(best_cosine.shape, -1, device=best_cosine.device)
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
    best = matching.nearest_latent.cosine
    scalars = {
        "mmcs_truth": mean(best),
        "mmcs_latents": mean(matching.nearest_feature.cosine),
        **assigned(matching),
        "recovered_80": mean(best > 0.8),
        "recovered_90": mean(best > RECOVERED),
        "uniqueness": uniqueness(matching),
    }
    return scalars | decile_scores("mmcs", best, probability)


def assigned(matching: Matching) -> dict[str, float]:
    """`mcc` and `mcc_all`, and `mcc_unproven` where the assignment is not certain to be the best."""
    smaller, larger = sorted(matching.cosines.shape)
    found = matching.assignment
    total = float(found.value.sum(dtype=torch.float64))
    scalars = {"mcc": total / smaller, "mcc_all": total / larger}
    return scalars | ({"mcc_unproven": found.unproven} if found.unproven else {})


def uniqueness(matching: Matching) -> float:
    """Number of different nearest features divided by n_latents; at most ``n_represented / n_latents``."""
    return len(matching.nearest_feature.partner[matching.touched].unique()) / matching.cosines.shape[1]


def false_recovery(truth: Truth, matching: Matching, W_dec: Float[Tensor, "n_latents d_in"]) -> float:
    """Share of latents whose nearest feature is an unrepresented one, with a cosine above .9; NaN where there is none.

    An unrepresented feature with a cosine above `MERGED` to a represented one is left out: a latent that finds one
    finds both.
    """
    represented = truth.directions[truth.represented]
    ignored = truth.directions[~truth.represented & (truth.directions.norm(dim=1) > 0)]
    if len(represented):
        ignored = ignored[_largest_cosine(represented, ignored) <= MERGED]
    if not len(ignored):
        return float("nan")
    nearest = _largest_cosine(ignored, W_dec)
    if len(represented):
        nearest = nearest.masked_fill(matching.nearest_feature.cosine >= nearest, 0)
    return mean(nearest > RECOVERED)


def _largest_cosine(
    among: Float[Tensor, "n_among d_in"], rows: Float[Tensor, "n_rows d_in"]
) -> Float[Tensor, " n_rows"]:
    """The largest signed cosine of each row with any direction of `among`."""
    parts = [cosine.amax(0) for _, cosine in Cosines(among, rows).blocks()]
    return torch.cat([torch.zeros(0, device=rows.device), *parts])
