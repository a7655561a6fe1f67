"""All known scores: direction, meaning, and the order of table columns."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Literal, NamedTuple


class ScoreInfo(NamedTuple):
    """Direction and meaning of a score."""

    better: Literal["more", "less", ""]
    """Whether more or less is better; empty if neither is."""
    meaning: str
    """One phrase for tables and pages."""


SCORES: dict[str, ScoreInfo] = {
    "l0": ScoreInfo("", "mean number of active latents per sample"),
    "true_l0": ScoreInfo("", "mean number of active features per sample"),
    "explained_variance": ScoreInfo("more", "1 - fvu"),
    "fvu": ScoreInfo("less", "fraction of variance unexplained: 0 is perfect, 1 is no better than the mean"),
    "fvu_median": ScoreInfo(
        "less", "fvu of the median sample, which a few samples of very large norm do not move: 0 is perfect"
    ),
    "outlier_variance": ScoreInfo(
        "", "share of the variance in the 1% of samples farthest from the mean; above .5, fvu is about these alone"
    ),
    "fvu_active_": ScoreInfo("less", "fvu of the samples with exactly this number of active features"),
    "shrinkage": ScoreInfo("", "E|x̂|² / E[x·x̂]: 1 is unbiased, below 1 the reconstruction is too small"),
    "dead": ScoreInfo("", "share of latents that fire on no test sample"),
    "dense": ScoreInfo("", "share of latents that fire on more than a tenth of the test samples"),
    "encoder_cost": ScoreInfo("", "largest number of multiply-adds to encode a sample, relative to one linear layer"),
    "train_rows": ScoreInfo("", "number of distinct training samples used to fit it"),
    "train_samples": ScoreInfo("", "number of training samples processed to fit it, counting repeats"),
    "train_flops": ScoreInfo("", "floating-point operations to fit it, counted as dense matrix products"),
    "l1_norm": ScoreInfo("", "mean sum of a sample's codes"),
    "decoder_cosine": ScoreInfo(
        "", "mean |cosine| between the decoder rows of alive latents; over a sweep it is smallest near the true l0"
    ),
    "mmcs_truth": ScoreInfo("more", "mean over features of the best latent's cosine (a recall)"),
    "mmcs_latents": ScoreInfo("more", "mean over latents of the best feature's cosine (a precision)"),
    "mcc": ScoreInfo("more", "mean cosine of features and latents matched one to one, over the smaller of both sets"),
    "mcc_all": ScoreInfo("more", "the same over the larger of both sets; unmatched members count as 0"),
    "mcc_unproven": ScoreInfo("less", "share of the smaller set whose matching in mcc is not proven to be the best"),
    "recovered_80": ScoreInfo("more", "share of features with a latent of cosine above .8"),
    "recovered_90": ScoreInfo("more", "share of features with a latent of cosine above .9"),
    "n_represented": ScoreInfo("", "number of features represented in the activations; recovery is measured on these"),
    "false_recovery": ScoreInfo("less", "share of latents whose nearest feature is not represented in the activations"),
    "pw_mcc": ScoreInfo(
        "more", "mean cosine of the latents of two seeds matched one to one: agreement, which does not imply validity"
    ),
    "seconds": ScoreInfo("", "time to fit it; the time of dictionaries trained together is divided among them"),
    "bytes": ScoreInfo("", "peak memory to fit it; that of dictionaries trained together is divided among them"),
    "subspace_cosine": ScoreInfo("more", "how well latents span the subspace of a multi-dimensional feature"),
    "latents_per_subspace": ScoreInfo("", "number of latents within the subspace of a multi-dimensional feature"),
    "mmcs_decile_": ScoreInfo("more", "mmcs_truth of one tenth of the features; 1 is the rarest"),
    "uniqueness": ScoreInfo("more", "number of distinct nearest features divided by the number of latents"),
    "precision": ScoreInfo("more", "share of a latent's firings in which its matched feature is active"),
    "recall": ScoreInfo("more", "share of a feature's activity in which its matched latent fires"),
    "f1": ScoreInfo("more", "harmonic mean of precision and recall of firing, features and latents matched one to one"),
    "f1_decile_": ScoreInfo("more", "f1 of one tenth of the features; 1 is the rarest"),
    "f1_macro": ScoreInfo(
        "more", "F1 of firing, mean over latents, each with its nearest feature (as defined in SAELens)"
    ),
    "precision_chosen": ScoreInfo("more", "precision at the threshold chosen on the validation split"),
    "recall_chosen": ScoreInfo("more", "recall at the threshold chosen on the validation split"),
    "f1_chosen": ScoreInfo("more", "F1 at the threshold chosen on the validation split"),
    "threshold": ScoreInfo("", "the threshold chosen on the validation split"),
    "support_agreement": ScoreInfo(
        "more", "Jaccard index of the latents that fire and those that another encoder of the same decoder uses"
    ),
    "support_truth": ScoreInfo(
        "more", "Jaccard index of the firing latents and the active features, latents and features matched one to one"
    ),
    "causal_share": ScoreInfo("more", "share of a recovered feature that ablating its latent removes"),
    "inert": ScoreInfo("less", "share of recovered features of which ablating the latent removes less than half"),
    "causal_stray": ScoreInfo(
        "less", "share of the energy of a recovered feature's latent on samples without the feature"
    ),
    "split_features": ScoreInfo(
        "less", "share of features that several latents together (their OR) predict better than the best one alone"
    ),
    "pieces_per_feature": ScoreInfo("less", "number of latents that together predict a feature; ideally 1"),
    "composed_latents": ScoreInfo("less", "share of latents that fire for two features and write both"),
    "features_per_latent": ScoreInfo("", "number of features in a latent's direction; ideally 1"),
    "homeless": ScoreInfo("less", "share of features without a latent of their own"),
    "hedged": ScoreInfo(
        "less", "part of features without a latent of their own in the latents of other features, in cosines; ideally 0"
    ),
    "coverage": ScoreInfo("more", "F1 of the best latent at its best threshold, mean over properties"),
    "coverage_one_t": ScoreInfo("more", "the same with one threshold for all properties"),
    "coverage_chance": ScoreInfo("", "F1 of always predicting the property, mean over properties"),
    "board_reconstruction": ScoreInfo("more", "F1 of predicting all properties from latents of precision .95 or more"),
    "code_mcc": ScoreInfo(
        "more", "mean |correlation| of coefficients and codes matched one to one; unmatched features count as 0"
    ),
    "code_mcc_all": ScoreInfo(
        "more", "the same sum divided by the larger number (as Pacela et al. 2026, without their noise)"
    ),
    "code_mcc_unproven": ScoreInfo(
        "less", "share of the smaller set whose matching in code_mcc is not proven to be the best"
    ),
    "coefficient_slope": ScoreInfo("", "slope of codes on true coefficients of active features; below 1 is shrinkage"),
    "coefficient_r2": ScoreInfo(
        "more", "squared correlation of a feature's coefficient with the code of its latent, matched by direction"
    ),
    "parents_found": ScoreInfo("more", "share of parent features that have a latent of their own"),
    "parent_recall_child": ScoreInfo(
        "more", "share of the samples with a parent and a child active in which the parent's latent fires"
    ),
    "parent_recall_alone": ScoreInfo("more", "the same for samples in which no child is active"),
    "absorption_full": ScoreInfo(
        "less", "share of a parent's activity in which a child's latent replaces the parent's latent"
    ),
    "absorption_fraction": ScoreInfo("less", "share of the reconstruction of a parent that latents of children write"),
    "child_in_parent": ScoreInfo("", "excess cosine of a parent's latent with the parent's children; ideally 0"),
    "parent_in_child": ScoreInfo("", "excess cosine of a child's latent with the child's parent; ideally 0"),
    "latents_per_feature": ScoreInfo("less", "number of latents over which a probed property is spread; ideally 1"),
    "ce_clean": ScoreInfo("", "loss of the unmodified model, nats per token"),
    "ce_spliced": ScoreInfo("less", "loss with the activations replaced by their reconstruction, nats per token"),
    "ce_increase": ScoreInfo("less", "ce_spliced - ce_clean, nats per token"),
    "ce_mean": ScoreInfo("", "loss with the activations replaced by their mean, nats per token"),
    "ce_zero": ScoreInfo("", "loss with the activations set to zero, nats per token"),
    "ce_recovered_mean": ScoreInfo("more", "share of the loss recovered, relative to mean ablation"),
    "ce_recovered_zero": ScoreInfo("more", "share of the loss recovered, relative to zero ablation"),
    "kl": ScoreInfo("less", "KL divergence between the predictions of the clean and the spliced model, nats"),
    "probe_auc_logistic": ScoreInfo("", "AUC of logistic regression on the raw activations"),
    "probe_auc_diff_means": ScoreInfo("", "AUC of the difference of class means on the raw activations"),
    "probe_auc_neuron": ScoreInfo("", "AUC of the best single coordinate of the raw activations"),
    "probe_auc_nearest": ScoreInfo("", "AUC of nearest neighbours on the raw activations, a nonlinear probe"),
    "probe_auc_latent": ScoreInfo("more", "AUC of the best single latent"),
    "probe_auc_k": ScoreInfo("more", "AUC of logistic regression on the k latents that differ most between classes"),
    "probe_auc_shuffled": ScoreInfo("", "AUC with shuffled training labels: a control that should be near .5"),
    "probe_f1_logistic": ScoreInfo("", "F1 of logistic regression on the raw activations"),
    "probe_f1_diff_means": ScoreInfo("", "F1 of the difference of class means"),
    "probe_f1_neuron": ScoreInfo("", "F1 of the best single coordinate"),
    "probe_f1_nearest": ScoreInfo("", "F1 of nearest neighbours on the raw activations"),
    "probe_f1_latent": ScoreInfo("more", "F1 of the best single latent"),
    "probe_f1_k": ScoreInfo("more", "F1 of logistic regression on the k latents that differ most between classes"),
    "probe_f1_shuffled": ScoreInfo("", "F1 with shuffled training labels"),
    "ev_saebench": ScoreInfo("more", "explained variance as in SAEBench 0.6.0; depends on the scale of activations"),
    "ev_per_token": ScoreInfo("more", "explained variance as in the SAEBench paper: mean over samples of their ratios"),
    "ev_per_dimension": ScoreInfo("more", "explained variance, computed for each dimension and averaged"),
    "ev_overcomplete": ScoreInfo("more", "explained variance about one mean of all dimensions, as in overcomplete"),
    "fve_dictionary_learning": ScoreInfo(
        "more", "explained variance as in dictionary_learning; ignores a constant bias"
    ),
    "nmse_openai": ScoreInfo("less", "mean over samples of squared error over squared norm, as in OpenAI's code"),
    "l2_ratio": ScoreInfo("", "mean of |x̂| / |x|; below 1 even without shrinkage"),
    "token_cosine": ScoreInfo("more", "mean cosine of a sample and its reconstruction"),
    "l0_positive": ScoreInfo("", "mean number of positive codes per sample"),
    "dead_under_10": ScoreInfo("", "share of latents that fire on fewer than 10 test samples, as in sparse_coding"),
    "mcc_absolute": ScoreInfo("more", "mcc with absolute cosines, as in SAELens"),
    "uniqueness_absolute": ScoreInfo("more", "uniqueness with absolute cosines, as in SAELens"),
}
"""Known scores in the order of table columns; names that end in a number are listed without it."""


FIDELITY = frozenset(
    [
        "explained_variance",
        "fvu",
        "fvu_median",
        "ce_spliced",
        "ce_increase",
        "ce_recovered_mean",
        "ce_recovered_zero",
        "kl",
    ]
)
"""Scores of fidelity: an exact reconstruction of the activations is perfect in each."""


EXACT_FVU = 1e-6
"""The fvu below which a reconstruction counts as exact, up to rounding."""


BEST_BY = ("mcc", "ce_recovered_mean", "f1", "probe_auc_latent", "explained_variance")
"""Scores that select the best dictionary, in this order, if the requested score does not exist."""


def score_of(name: str) -> ScoreInfo | None:
    """Direction and meaning of a score; None if it is unknown."""
    return SCORES.get(name) or SCORES.get(re.sub(r"\d+$", "", name))


def can_rank(name: str) -> bool:
    """Whether a score can name a best dictionary: more or less of it is better. A score that is not known here, such as
    a plugin's, can: more of it counts as better."""
    known = score_of(name)
    return known is None or bool(known.better)


def ordered_scores(names: Iterable[str]) -> list[str]:
    """Score names in the order of `SCORES`, numbered ones by number, unknown ones last."""
    place = {name: i for i, name in enumerate(SCORES)}

    def position(name: str) -> tuple[int, int, str]:
        stem, number = re.fullmatch(r"(.*?)(\d*)", name, re.DOTALL).groups()  # pyright: ignore[reportOptionalMemberAccess]
        return place.get(name, place.get(stem, len(place))), int(number or 0), name

    return sorted(set(names), key=position)


def goodness(value: float, score: str) -> float:
    """A value, negated for scores where less is better; minus infinity if it is undefined."""
    known = score_of(score)
    if math.isnan(value):
        return -math.inf
    return -value if known is not None and known.better == "less" else value
