"""Every known score: which way it is better, what it means, and the order in which tables show it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Literal, NamedTuple


class Score(NamedTuple):
    """Which way a score is better ("" for neither), and what it says."""

    better: Literal["more", "less", ""]
    meaning: str


SCORES: dict[str, Score] = {
    "l0": Score("", "mean number of active latents in a row"),
    "true_l0": Score("", "mean number of active features in a row"),
    "explained_variance": Score("more", "1 - fvu"),
    "fvu": Score("less", "fraction of variance unexplained: 0 is perfect, 1 no better than the mean"),
    "fvu_active_": Score("less", "fvu of the rows with as many active features alone"),
    "shrinkage": Score("", "E|x̂|² / E[x·x̂]: 1 is unbiased, below 1 too small"),
    "dead": Score("", "share of latents that fire on no test row"),
    "dense": Score("", "share of latents that fire on more than a tenth of the test rows"),
    "encoder_cost": Score("", "multiply-adds to encode a row, at most, over those of one layer"),
    "train_rows": Score("", "different training rows that were looked at to fit it"),
    "train_samples": Score("", "training rows that were worked on to fit it, counting repeats"),
    "train_flops": Score("", "floating point operations to fit it, of the dense products"),
    "l1_norm": Score("", "mean sum of the codes of a row"),
    "decoder_cosine": Score("", "mean |cosine| between living latents; over a sweep of l0 it is least near the truth"),
    "mmcs_truth": Score("more", "mean over features of the best latent's cosine (a recall)"),
    "mmcs_latents": Score("more", "mean over latents of the best feature's cosine (a precision)"),
    "mcc": Score("more", "mean cosine of features and latents paired one to one, over the smaller side"),
    "mcc_all": Score("more", "the same over the larger side; whatever has no partner counts 0"),
    "recovered_80": Score("more", "share of features with a latent of cosine above .8"),
    "recovered_90": Score("more", "share of features with a latent of cosine above .9"),
    "n_represented": Score("", "number of features that the activations carry: those that recovery is asked of"),
    "false_recovery": Score("less", "share of latents nearest to a feature that the activations do not carry"),
    "pw_mcc": Score("more", "cosine of two seeds' latents paired one to one: agreement, which is no validity"),
    "seconds": Score("", "time that the dictionary took to make, its share of what was trained together"),
    "bytes": Score("", "memory that it took to make, the most at once, its share of what was trained together"),
    "subspace_cosine": Score("more", "how well latents span the subspace of a feature that is more than a direction"),
    "latents_per_subspace": Score("", "number of latents within such a subspace: into how many pieces it is cut"),
    "mmcs_decile_": Score("more", "mmcs_truth of a tenth of the features; 1 is the rarest"),
    "uniqueness": Score("more", "number of different nearest features per latent"),
    "precision": Score("more", "share of a latent's firings in which its feature is active, paired one to one"),
    "recall": Score("more", "share of a feature's activity in which its latent fires, paired one to one"),
    "f1": Score("more", "harmonic mean of precision and recall of firing, paired one to one"),
    "f1_decile_": Score("more", "f1 of a tenth of the features; 1 is the rarest"),
    "f1_macro": Score("more", "firing F1, mean over latents, each against its nearest feature (SAELens' form)"),
    "precision_chosen": Score("more", "precision at the threshold chosen on other rows"),
    "recall_chosen": Score("more", "recall at the threshold chosen on other rows"),
    "f1_chosen": Score("more", "F1 at the threshold chosen on other rows"),
    "threshold": Score("", "that threshold"),
    "causal_share": Score("more", "share of a recovered feature that ablating its latent removes"),
    "inert": Score("less", "share of recovered features of which ablating the latent removes less than half"),
    "causal_stray": Score("less", "share of a recovered feature's latent that is written where the feature is not"),
    "split_features": Score("less", "share of features told by several latents in turn, better than by one"),
    "pieces_per_feature": Score("less", "number of latents that tell a feature together; 1 is right"),
    "composed_latents": Score("less", "share of latents that fire for, and write, two features at once"),
    "features_per_latent": Score("", "number of features in a latent's direction; 1 is right"),
    "homeless": Score("less", "share of features without a latent of their own"),
    "hedged": Score("less", "how much of a homeless feature is mixed into another's latent, in cosines; 0 is right"),
    "coverage": Score("more", "F1 of the best latent at its best threshold, mean over properties"),
    "coverage_one_t": Score("more", "the same with one threshold for all properties"),
    "coverage_chance": Score("", "the F1 of always saying yes, mean over properties"),
    "board_reconstruction": Score("more", "F1 of all properties as told by the latents of precision .95"),
    "code_mcc": Score("more", "mean |correlation| of coefficients and codes paired one to one; no partner counts 0"),
    "code_mcc_all": Score("more", "the same sum over the larger side (as Pacela et al. 2026, without their noise)"),
    "coefficient_slope": Score("", "codes over true coefficients where features are active: below 1 is shrinkage"),
    "coefficient_r2": Score(
        "more", "squared correlation of a feature's coefficient and its latent, paired by direction"
    ),
    "parents_found": Score("more", "share of the features with children that have a latent of their own"),
    "parent_recall_child": Score("more", "share of a parent's activity with a child's in which its latent fires"),
    "parent_recall_alone": Score("more", "the same where no child is active"),
    "absorption_full": Score("less", "share of a parent's activity in which a child's latent stands in for its own"),
    "absorption_fraction": Score("less", "share of what is written of a parent that children's latents write"),
    "child_in_parent": Score("", "how much of a child is mixed into its parent's latent, in cosines; 0 is right"),
    "parent_in_child": Score("", "how much of a parent is mixed into its child's latent, in cosines; 0 is right"),
    "latents_per_feature": Score("less", "over how many latents a probed property is spread; 1 where one says it"),
    "ce_clean": Score("", "the model's own loss, nats per token"),
    "ce_spliced": Score("less", "its loss with the reconstruction in place of the activations"),
    "ce_increase": Score("less", "ce_spliced - ce_clean, nats per token"),
    "ce_mean": Score("", "its loss with the activations replaced by their mean"),
    "ce_zero": Score("", "its loss with the activations set to zero"),
    "ce_recovered_mean": Score("more", "share of the loss kept, with mean ablation as 0"),
    "ce_recovered_zero": Score("more", "share of the loss kept, with zero ablation as 0"),
    "kl": Score("less", "KL divergence of the model's predictions, clean against spliced, nats"),
    "probe_auc_logistic": Score("", "AUC of logistic regression on the raw activations"),
    "probe_auc_diff_means": Score("", "AUC of the difference of class means on the raw activations"),
    "probe_auc_neuron": Score("", "AUC of the best single coordinate of the raw activations"),
    "probe_auc_nearest": Score("", "AUC of nearest neighbours among the raw activations, a reader that is not linear"),
    "probe_auc_latent": Score("more", "AUC of the best single latent"),
    "probe_auc_k": Score("more", "AUC of logistic regression on the k latents that differ most"),
    "probe_auc_shuffled": Score("", "AUC with shuffled training labels: a control that should stay near .5"),
    "probe_f1_logistic": Score("", "F1 of logistic regression on the raw activations"),
    "probe_f1_diff_means": Score("", "F1 of the difference of class means"),
    "probe_f1_neuron": Score("", "F1 of the best single coordinate"),
    "probe_f1_nearest": Score("", "F1 of nearest neighbours among the raw activations"),
    "probe_f1_latent": Score("more", "F1 of the best single latent"),
    "probe_f1_k": Score("more", "F1 of logistic regression on the k latents that differ most"),
    "probe_f1_shuffled": Score("", "F1 with shuffled training labels"),
    "ev_saebench": Score("more", "explained variance as in SAEBench 0.6.0; depends on the unit"),
    "ev_per_token": Score("more", "explained variance as in the SAEBench paper: mean of each row's ratio"),
    "ev_per_dimension": Score("more", "explained variance, mean of each dimension's"),
    "ev_overcomplete": Score("more", "explained variance about one number for all dimensions, as in overcomplete"),
    "fve_dictionary_learning": Score("more", "explained variance as in dictionary_learning; forgives a constant bias"),
    "nmse_openai": Score("less", "mean of each row's squared error over its squared norm, as in OpenAI's code"),
    "l2_ratio": Score("", "mean of |x̂| / |x|; below 1 even where nothing is shrunk"),
    "token_cosine": Score("more", "mean cosine of a row and its reconstruction"),
    "l0_positive": Score("", "mean number of codes above 0 in a row"),
    "dead_under_10": Score("", "share of latents that fire on fewer than 10 test rows, as in sparse_coding"),
    "mcc_absolute": Score("more", "mcc in absolute cosines, as in SAELens"),
    "uniqueness_absolute": Score("more", "uniqueness in absolute cosines, as in SAELens"),
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


def score_of(name: str) -> Score | None:
    """What is known of a score by its name."""
    return SCORES.get(name) or SCORES.get(re.sub(r"\d+$", "", name))


def ordered(names: Iterable[str]) -> list[str]:
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
