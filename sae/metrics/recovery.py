"""Whether the latents' directions are the features': cosines between true directions and decoder rows.

With S_gj = cos(f_g, W_dec[j]), signed, over the features g that the activations represent:

    mmcs_truth      mean_g max_j S_gj, a recall: it never falls when latents are added
    mmcs_latents    mean_j max_g S_gj, a precision: every latent that is no feature lowers it
    mcc             mean of S over the pairs of the best one-to-one assignment: min(n_features, n_latents)
    mcc_all         the same sum over max(n_features, n_latents): whatever is left without a partner counts 0
    recovered_80    share of features with max_j S_gj > .8; recovered_90 likewise
    uniqueness      number of different features argmax_g S_gj / n_latents
    n_represented   number of those features g
    false_recovery  share of latents nearest to a feature that is *not* represented, with a cosine above .9
    mmcs_decile_1   mmcs_truth of the rarest tenth of the features, ..., _10 of the most frequent

The names in the wild: `mmcs_truth` is the MMCS of Sharkey, Braun and Millidge 2022; sparse_coding calls
`mmcs_latents` mmcs_to_fixed and the other direction representedness. SAELens' MCC and uniqueness take |S| where we
keep the sign, and its MCC is over the smaller side; they agree with ours where the matches are positive (random
directions, 512 latents before 512 features in 256 dimensions: .180 signed, .192 absolute). The MCC of O'Neill et
al. 2024 correlates codes, not directions, and compares with neither. Korznikov et al. 2026 count a feature as
recovered at .8, sparse_coding at .9.

`false_recovery` asks for what cannot be: a latent that stands for a feature whose direction is known (not zero) but
which the activations carry too weakly to count. It is NaN where no feature is ignored in that way. A latent that is at
least as near to a represented feature belongs to that one.

A latent whose direction has no length has cosine 0 with everything and is nobody's argmax. The assignment
maximises the sum of signed cosines (Hungarian), for at most `sae.numerics.matching.LARGEST_ASSIGNMENT` on the larger
side; beyond that `mcc` and `mcc_all` are NaN. The chance level rises with n_latents and falls with d_in: always
read these scores beside random directions of the same shape. The decoder rows of a transcoder are directions of its
targets, and are held against true directions in that space.
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
    """Needs ``truth``. Vectors, ``[n_features]``: `best_cosine` (NaN where not represented), `matched_latent`
    (-1 for none), `probability` and `represented`. Deciles are left out where no probabilities are known."""

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
    """All scalars; NaN where no feature is represented."""
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
    """Different nearest features over latents; at most ``n_represented / n_latents``."""
    alive = (cosine != 0).any(0)
    return len(cosine.argmax(0)[alive].unique()) / cosine.shape[1]


def false_recovery(truth: Truth, matching: Matching, W_dec: Float[Tensor, "n_latents d_in"]) -> float:
    """The share of latents nearest to an ignored feature; NaN where none is ignored. One that points where a
    represented feature does is no rival to it: they were merged, and a latent that finds one finds both."""
    kept = truth.directions[truth.represented]
    ignored = truth.directions[~truth.represented & (truth.directions.norm(dim=1) > 0)]
    if len(kept):
        ignored = ignored[cosines(ignored, kept).amax(1) <= MERGED]
    if not len(ignored):
        return float("nan")
    beside = cosines(ignored, W_dec).amax(0)
    if len(kept):
        beside = beside.masked_fill(matching.cosine.amax(0) >= beside, 0)
    return mean(beside > RECOVERED)
