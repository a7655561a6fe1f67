"""Every known score: which way it is better, what it means, and the order in which tables show it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Literal, NamedTuple


class ScoreInfo(NamedTuple):
    """Which way a score is better ("" for neither), and what it says."""

    better: Literal["more", "less", ""]
    meaning: str


SCORES: dict[str, ScoreInfo] = {
    "l0": ScoreInfo("", "mean number of active latents in a row"),
    "true_l0": ScoreInfo("", "mean number of active features in a row"),
    "explained_variance": ScoreInfo("more", "1 - fvu"),
    "fvu": ScoreInfo("less", "fraction of variance unexplained: 0 is perfect, 1 no better than the mean"),
    "fvu_active_": ScoreInfo("less", "fvu of the rows with as many active features alone"),
    "shrinkage": ScoreInfo("", "E|x̂|² / E[x·x̂]: 1 is unbiased, below 1 too small"),
    "dead": ScoreInfo("", "share of latents that fire on no test row"),
    "dense": ScoreInfo("", "share of latents that fire on more than a tenth of the test rows"),
    "encoder_cost": ScoreInfo("", "multiply-adds to encode a row, at most, over those of one layer"),
    "train_rows": ScoreInfo("", "different training rows that were looked at to fit it"),
    "train_samples": ScoreInfo("", "training rows that were worked on to fit it, counting repeats"),
    "train_flops": ScoreInfo("", "floating point operations to fit it, of the dense products"),
    "l1_norm": ScoreInfo("", "mean sum of the codes of a row"),
    "decoder_cosine": ScoreInfo(
        "", "mean |cosine| between living latents; over a sweep of l0 it is least near the truth"
    ),
    "mmcs_truth": ScoreInfo("more", "mean over features of the best latent's cosine (a recall)"),
    "mmcs_latents": ScoreInfo("more", "mean over latents of the best feature's cosine (a precision)"),
    "mcc": ScoreInfo("more", "mean cosine of features and latents paired one to one, over the smaller side"),
    "mcc_all": ScoreInfo("more", "the same over the larger side; whatever has no partner counts 0"),
    "recovered_80": ScoreInfo("more", "share of features with a latent of cosine above .8"),
    "recovered_90": ScoreInfo("more", "share of features with a latent of cosine above .9"),
    "n_represented": ScoreInfo("", "number of features that the activations carry: those that recovery is asked of"),
    "false_recovery": ScoreInfo("less", "share of latents nearest to a feature that the activations do not carry"),
    "pw_mcc": ScoreInfo("more", "cosine of two seeds' latents paired one to one: agreement, which is no validity"),
    "seconds": ScoreInfo("", "time that the dictionary took to make, its share of what was trained together"),
    "bytes": ScoreInfo("", "memory that it took to make, the most at once, its share of what was trained together"),
    "subspace_cosine": ScoreInfo(
        "more", "how well latents span the subspace of a feature that is more than a direction"
    ),
    "latents_per_subspace": ScoreInfo("", "number of latents within such a subspace: into how many pieces it is cut"),
    "mmcs_decile_": ScoreInfo("more", "mmcs_truth of a tenth of the features; 1 is the rarest"),
    "uniqueness": ScoreInfo("more", "number of different nearest features per latent"),
    "precision": ScoreInfo("more", "share of a latent's firings in which its feature is active, paired one to one"),
    "recall": ScoreInfo("more", "share of a feature's activity in which its latent fires, paired one to one"),
    "f1": ScoreInfo("more", "harmonic mean of precision and recall of firing, paired one to one"),
    "f1_decile_": ScoreInfo("more", "f1 of a tenth of the features; 1 is the rarest"),
    "f1_macro": ScoreInfo("more", "firing F1, mean over latents, each against its nearest feature (SAELens' form)"),
    "precision_chosen": ScoreInfo("more", "precision at the threshold chosen on other rows"),
    "recall_chosen": ScoreInfo("more", "recall at the threshold chosen on other rows"),
    "f1_chosen": ScoreInfo("more", "F1 at the threshold chosen on other rows"),
    "threshold": ScoreInfo("", "that threshold"),
    "causal_share": ScoreInfo("more", "share of a recovered feature that ablating its latent removes"),
    "inert": ScoreInfo("less", "share of recovered features of which ablating the latent removes less than half"),
    "causal_stray": ScoreInfo("less", "share of a recovered feature's latent that is written where the feature is not"),
    "split_features": ScoreInfo("less", "share of features told by several latents in turn, better than by one"),
    "pieces_per_feature": ScoreInfo("less", "number of latents that tell a feature together; 1 is right"),
    "composed_latents": ScoreInfo("less", "share of latents that fire for, and write, two features at once"),
    "features_per_latent": ScoreInfo("", "number of features in a latent's direction; 1 is right"),
    "homeless": ScoreInfo("less", "share of features without a latent of their own"),
    "hedged": ScoreInfo(
        "less", "how much of a homeless feature is mixed into another's latent, in cosines; 0 is right"
    ),
    "coverage": ScoreInfo("more", "F1 of the best latent at its best threshold, mean over properties"),
    "coverage_one_t": ScoreInfo("more", "the same with one threshold for all properties"),
    "coverage_chance": ScoreInfo("", "the F1 of always saying yes, mean over properties"),
    "board_reconstruction": ScoreInfo("more", "F1 of all properties as told by the latents of precision .95"),
    "code_mcc": ScoreInfo(
        "more", "mean |correlation| of coefficients and codes paired one to one; no partner counts 0"
    ),
    "code_mcc_all": ScoreInfo("more", "the same sum over the larger side (as Pacela et al. 2026, without their noise)"),
    "coefficient_slope": ScoreInfo("", "codes over true coefficients where features are active: below 1 is shrinkage"),
    "coefficient_r2": ScoreInfo(
        "more", "squared correlation of a feature's coefficient and its latent, paired by direction"
    ),
    "parents_found": ScoreInfo("more", "share of the features with children that have a latent of their own"),
    "parent_recall_child": ScoreInfo("more", "share of a parent's activity with a child's in which its latent fires"),
    "parent_recall_alone": ScoreInfo("more", "the same where no child is active"),
    "absorption_full": ScoreInfo(
        "less", "share of a parent's activity in which a child's latent stands in for its own"
    ),
    "absorption_fraction": ScoreInfo("less", "share of what is written of a parent that children's latents write"),
    "child_in_parent": ScoreInfo("", "how much of a child is mixed into its parent's latent, in cosines; 0 is right"),
    "parent_in_child": ScoreInfo("", "how much of a parent is mixed into its child's latent, in cosines; 0 is right"),
    "latents_per_feature": ScoreInfo("less", "over how many latents a probed property is spread; 1 where one says it"),
    "ce_clean": ScoreInfo("", "the model's own loss, nats per token"),
    "ce_spliced": ScoreInfo("less", "its loss with the reconstruction in place of the activations"),
    "ce_increase": ScoreInfo("less", "ce_spliced - ce_clean, nats per token"),
    "ce_mean": ScoreInfo("", "its loss with the activations replaced by their mean"),
    "ce_zero": ScoreInfo("", "its loss with the activations set to zero"),
    "ce_recovered_mean": ScoreInfo("more", "share of the loss kept, with mean ablation as 0"),
    "ce_recovered_zero": ScoreInfo("more", "share of the loss kept, with zero ablation as 0"),
    "kl": ScoreInfo("less", "KL divergence of the model's predictions, clean against spliced, nats"),
    "probe_auc_logistic": ScoreInfo("", "AUC of logistic regression on the raw activations"),
    "probe_auc_diff_means": ScoreInfo("", "AUC of the difference of class means on the raw activations"),
    "probe_auc_neuron": ScoreInfo("", "AUC of the best single coordinate of the raw activations"),
    "probe_auc_nearest": ScoreInfo(
        "", "AUC of nearest neighbours among the raw activations, a reader that is not linear"
    ),
    "probe_auc_latent": ScoreInfo("more", "AUC of the best single latent"),
    "probe_auc_k": ScoreInfo("more", "AUC of logistic regression on the k latents that differ most"),
    "probe_auc_shuffled": ScoreInfo("", "AUC with shuffled training labels: a control that should stay near .5"),
    "probe_f1_logistic": ScoreInfo("", "F1 of logistic regression on the raw activations"),
    "probe_f1_diff_means": ScoreInfo("", "F1 of the difference of class means"),
    "probe_f1_neuron": ScoreInfo("", "F1 of the best single coordinate"),
    "probe_f1_nearest": ScoreInfo("", "F1 of nearest neighbours among the raw activations"),
    "probe_f1_latent": ScoreInfo("more", "F1 of the best single latent"),
    "probe_f1_k": ScoreInfo("more", "F1 of logistic regression on the k latents that differ most"),
    "probe_f1_shuffled": ScoreInfo("", "F1 with shuffled training labels"),
    "ev_saebench": ScoreInfo("more", "explained variance as in SAEBench 0.6.0; depends on the unit"),
    "ev_per_token": ScoreInfo("more", "explained variance as in the SAEBench paper: mean of each row's ratio"),
    "ev_per_dimension": ScoreInfo("more", "explained variance, mean of each dimension's"),
    "ev_overcomplete": ScoreInfo("more", "explained variance about one number for all dimensions, as in overcomplete"),
    "fve_dictionary_learning": ScoreInfo(
        "more", "explained variance as in dictionary_learning; forgives a constant bias"
    ),
    "nmse_openai": ScoreInfo("less", "mean of each row's squared error over its squared norm, as in OpenAI's code"),
    "l2_ratio": ScoreInfo("", "mean of |x̂| / |x|; below 1 even where nothing is shrunk"),
    "token_cosine": ScoreInfo("more", "mean cosine of a row and its reconstruction"),
    "l0_positive": ScoreInfo("", "mean number of codes above 0 in a row"),
    "dead_under_10": ScoreInfo("", "share of latents that fire on fewer than 10 test rows, as in sparse_coding"),
    "mcc_absolute": ScoreInfo("more", "mcc in absolute cosines, as in SAELens"),
    "uniqueness_absolute": ScoreInfo("more", "uniqueness in absolute cosines, as in SAELens"),
}
"""Known scores in the order in which tables show them; a number at the end of a name may be left out here."""


FIDELITY = frozenset(
    ["explained_variance", "fvu", "ce_spliced", "ce_increase", "ce_recovered_mean", "ce_recovered_zero", "kl"]
)
"""Scores that a copy of the activations has perfect."""


COPY = 1e-6
"""The fvu below which a reconstruction is a copy, up to rounding."""


BEST_BY = ("mcc", "ce_recovered_mean", "f1", "probe_auc_latent", "explained_variance")
"""What names the best dictionary where the score that was asked for does not exist."""


def score_of(name: str) -> ScoreInfo | None:
    """What is known of a score by its name."""
    return SCORES.get(name) or SCORES.get(re.sub(r"\d+$", "", name))


def ordered_scores(names: Iterable[str]) -> list[str]:
    """Score names in the order of `SCORES`, numbered ones by number, unknown ones last."""
    place = {name: i for i, name in enumerate(SCORES)}

    def position(name: str) -> tuple[int, int, str]:
        stem, number = re.fullmatch(r"(.*?)(\d*)", name, re.DOTALL).groups()  # pyright: ignore[reportOptionalMemberAccess]
        return place.get(name, place.get(stem, len(place))), int(number or 0), name

    return sorted(set(names), key=position)


def goodness(value: float, score: str) -> float:
    """A value with its sign turned where less is better; minus infinity where it is undefined."""
    known = score_of(score)
    if math.isnan(value):
        return -math.inf
    return -value if known is not None and known.better == "less" else value
