"""Scores side by side: one row a dictionary, one setting for the rows that differ in their seeds alone."""

from __future__ import annotations

import csv
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from pipelines.labels import brief
from sae.kinds import kinds
from sae.statistics import Estimate, mean_interval

Value = str | int | float | None

IDENTITY = ("source", "method", "encoder", "n_latents", "l1", "target_l0", "seed", "data_seed")
SEEDS = ("seed", "data_seed")


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


@dataclass(frozen=True)
class Row:
    """One dictionary: what it is, and its scores; a score that is undefined is NaN or absent."""

    identity: Mapping[str, Value]
    scores: Mapping[str, float]


def goodness(value: float, score: str) -> float:
    """A value with its sign turned where less is better; minus infinity where it is undefined."""
    known = score_of(score)
    if math.isnan(value):
        return -math.inf
    return -value if known is not None and known.better == "less" else value


@dataclass(frozen=True)
class Setting:
    """The dictionaries that differ in nothing but seeds, with the mean of every score and its 95% interval.

    `members` are indices into the rows. `label` is the method in brief, with its encoder where a method has several.
    `others` are what a row tells of itself beyond the usual columns.
    """

    source: str
    method: str
    encoder: str
    label: str
    n_latents: int | None
    l1: float | None
    target_l0: float | None
    others: tuple[tuple[str, Value], ...] = ()
    members: tuple[int, ...] = ()
    scores: Mapping[str, Estimate] = field(default_factory=dict[str, Estimate])
    samples: Mapping[str, tuple[float, ...]] = field(default_factory=dict[str, tuple[float, ...]])

    @property
    def kind(self) -> str:
        """The method's kind; `method` may go on with the settings in which its likes differ."""
        return self.method.partition(" ")[0].partition("+")[0]

    @property
    def is_baseline(self) -> bool:
        return self.kind in kinds("sae.baselines")

    @property
    def is_oracle(self) -> bool:
        """Whether it was given what the others are to find."""
        return self.is_baseline and "truth" in kinds("sae.baselines")[self.kind].Config.needs

    @property
    def but_encoder(self) -> tuple[object, ...]:
        """What its directions are told by: settings that differ in the encoder alone are one dictionary, read twice."""
        return self.source, self.method, self.n_latents, self.l1, self.target_l0, self.others

    @property
    def copies(self) -> bool:
        """Whether the activations come back exactly, as from a complete basis: nothing was compressed."""
        return self.mean("fvu") < COPY

    def is_ceiling(self, score: str) -> bool:
        """Whether the score is no merit of the setting: the oracle was given the features, and a copy of the
        activations has every score of fidelity perfect without having found anything."""
        return self.is_oracle or (self.copies and score in FIDELITY)

    @property
    def title(self) -> str:
        """The setting in words, e.g. ``relu, 64 latents, l1 = 2``."""
        parts = [self.label, f"{self.n_latents} latents" if self.n_latents else ""]
        parts += [f"{name} = {value:.4g}" for name, value in self.penalty]
        parts += [f"{name} = {value}" for name, value in self.others if value not in ("", None)]
        return ", ".join(filter(None, parts))

    @property
    def penalty(self) -> list[tuple[str, float]]:
        """What sets the sparsity: `l1` or `target_l0`."""
        given = (("l1", self.l1), ("target_l0", self.target_l0))
        return [(name, value) for name, value in given if value is not None]

    def mean(self, score: str) -> float:
        """The mean of a score over seeds, NaN where there is none."""
        return self.scores[score].mean if score in self.scores else math.nan

    def goodness(self, score: str) -> float:
        """The mean, with its sign turned where less is better; minus infinity where there is none."""
        return goodness(self.mean(score), score)


def settings_of(rows: Sequence[Row]) -> list[Setting]:
    """Rows gathered by all but their seeds, in the order in which they first appear.

    Rows that agree in every column, seeds included, belong to different settings: their n-th copies go together.
    """
    seen: dict[tuple[tuple[str, Value], ...], int] = {}
    groups: dict[tuple[tuple[str, Value], ...], list[int]] = {}
    for i, row in enumerate(rows):
        everything = tuple(row.identity.items())
        seen[everything] = copy = seen.get(everything, 0) + 1
        key = tuple((name, value) for name, value in everything if name not in SEEDS)
        groups.setdefault((*key, ("variant", copy if copy > 1 else None)), []).append(i)
    pairs = {tuple(str(row.identity.get(name) or "") for name in ("method", "encoder")) for row in rows}
    encoders, names = Counter(method for method, _ in pairs), brief(sorted(method for method, _ in pairs))
    labels = {(m, e): f"{names[m]} ({e})" if encoders[m] > 1 else names[m] for m, e in pairs}
    return [_setting(dict(key), members, rows, labels) for key, members in groups.items()]


def _setting(
    identity: dict[str, Value], members: list[int], rows: Sequence[Row], labels: Mapping[tuple[str, str], str]
) -> Setting:
    scores = ordered(name for i in members for name in rows[i].scores)
    samples = {name: _independent(name, members, rows) for name in scores}
    n_latents, l1, target_l0 = (identity.pop(name, None) for name in ("n_latents", "l1", "target_l0"))
    source, method, encoder = (str(identity.pop(name, None) or "") for name in ("source", "method", "encoder"))
    return Setting(
        source=source,
        method=method,
        encoder=encoder,
        label=labels[method, encoder],
        n_latents=None if n_latents in (None, "") else int(n_latents),
        l1=None if l1 in (None, "") else float(l1),
        target_l0=None if target_l0 in (None, "") else float(target_l0),
        others=tuple(identity.items()),
        members=tuple(members),
        scores={name: mean_interval(values) for name, values in samples.items()},
        samples=samples,
    )


def _independent(name: str, members: Sequence[int], rows: Sequence[Row]) -> tuple[float, ...]:
    """The values that an interval may count as independent: one a seed; where data seeds differ, one a data seed,
    because dictionaries trained on the same features share the luck of those features."""
    by_data: dict[Value, list[float]] = {}
    for i in members:
        by_data.setdefault(rows[i].identity.get("data_seed"), []).append(rows[i].scores.get(name, math.nan))
    if len(by_data) == 1:
        return tuple(v for v in next(iter(by_data.values())) if math.isfinite(v))
    means = (mean_interval(values).mean for values in by_data.values())
    return tuple(v for v in means if math.isfinite(v))


def ranked(settings: Iterable[Setting], score: str) -> list[Setting]:
    """Settings that have the score, the best first."""
    having = [s for s in settings if s.goodness(score) > -math.inf]
    return sorted(having, key=lambda s: -s.goodness(score))


def champions(settings: Iterable[Setting], score: str) -> list[Setting]:
    """The best setting of each method, the best method first."""
    best: dict[str, Setting] = {}
    for s in ranked(settings, score):
        best.setdefault(s.label, s)
    return list(best.values())


def decided_by(settings: Sequence[Setting], wanted: str) -> str:
    """The score that names the best dictionary: the one wanted where any dictionary has it, else the first of
    `BEST_BY` that exists, else whatever there is."""
    names = {name for s in settings for name, e in s.scores.items() if not math.isnan(e.mean)}
    return next((name for name in (wanted, *BEST_BY, *ordered(names)) if name in names), wanted)


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """One line a dictionary, one column a score; numbers in full, empty where a score does not apply."""
    extra = [name for row in rows for name in row.identity if name not in IDENTITY]
    identity = [*IDENTITY[: -len(SEEDS)], *dict.fromkeys(extra), *SEEDS]
    names = ordered(name for row in rows for name in row.scores)
    with path.open("w", newline="", encoding="utf-8") as f:
        lines = csv.writer(f, lineterminator="\n")
        lines.writerow([*identity, *names])
        for row in rows:
            numbers = [row.scores.get(name, math.nan) for name in names]
            known = ["" if (v := row.identity.get(name)) is None else v for name in identity]
            lines.writerow([*known, *("" if math.isnan(v) else repr(v) for v in numbers)])


def read_csv(path: Path) -> list[Row]:
    """The rows of a ``scores.csv``; a ``FileNotFoundError`` names the file where there is none."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no scores here; run the report first")
    with path.open(newline="", encoding="utf-8") as f:
        lines = csv.DictReader(f)
        columns = list(lines.fieldnames or ())
        n = columns.index(IDENTITY[-1]) + 1
        return [
            Row({c: line[c] or None for c in columns[:n]}, {c: float(line[c]) for c in columns[n:] if line[c]})
            for line in lines
        ]
