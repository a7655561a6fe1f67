"""The figures of one source in a report, with their data, titles and captions."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from pipelines.config.names import counted
from pipelines.report import figures
from pipelines.report.findings import Verdict, sweep_of
from pipelines.report.picture import Picture
from pipelines.report.portraits import FirstSeedDictionary
from pipelines.report.scores import ordered_scores
from pipelines.report.settings_table import Setting, best_per_method
from pipelines.report.sparsity_figure import LEAST_L0, draw_against_l0
from pipelines.report.style import Array
from pipelines.steps.source_steps import kind_of, open_source
from sae.files import load
from sae.numerics.matching import cosines
from sae.registry import kinds

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_MOST_COSINES = 2**25
"""The most pairs of features and latents whose cosines are drawn: more are no picture, and take memory."""


@dataclass(frozen=True)
class ReportedDictionary:
    """The step directories of one dictionary."""

    source: Path
    """Directory of its source."""
    train: Path
    """Directory of its train step."""
    score: Path
    """Directory of its score step."""

    def vectors(self) -> dict[str, Tensor]:
        """The vectors that metrics wrote, by name; empty if there are none."""
        from safetensors.torch import load_file

        file = self.score / "vectors.safetensors"
        return load_file(file) if file.is_file() else {}

    def scores(self) -> dict[str, float]:
        """The defined scores by name."""
        scores = json.loads((self.score / "scores.json").read_text())["scores"]
        return {name: float(value) for name, value in scores.items() if value is not None}

    def log(self) -> list[Mapping[str, float]]:
        """The records of the training log; empty for a baseline."""
        file = self.train / "log.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def pictures(settings: Sequence[Setting], verdict: Verdict, places: Sequence[ReportedDictionary]) -> Iterator[Picture]:
    """The figures of one source for which there are data.

    Figures of a single dictionary show the first seed of a setting, not the best one.
    """
    drawn = (
        _portrait(settings, verdict, places),
        _frontiers(settings, verdict),
        _heat_map(settings),
        _cosines(verdict, places),
        _recovery(settings, verdict, places),
        _densities(verdict, places),
        _losses(settings, verdict, places),
        _bars(settings, verdict),
    )
    for group in drawn:
        for name, title, caption, figure in group:
            if figure is not None:
                yield Picture(name, title, caption, figure)


_Drawn = Iterator[tuple[str, str, str, "Figure | None"]]


def _portrait(settings: Sequence[Setting], v: Verdict, places: Sequence[ReportedDictionary]) -> _Drawn:
    """The figures specific to the kind of source: of the source itself, and of dictionaries trained on it."""
    place = places[v.best.members[0]]
    portrait = kinds("pipelines.report.portraits").get(kind_of(place.source))
    if portrait is None:
        return
    yield from portrait.draw(place.source)
    if hasattr(portrait, "overlay"):
        yield from portrait.overlay(place.source, list(_candidates(settings, v, places)))


def _candidates(
    settings: Sequence[Setting], v: Verdict, places: Sequence[ReportedDictionary]
) -> Iterator[FirstSeedDictionary]:
    """The best dictionary and, if it is a different one, the trained dictionary with the lowest error."""
    trained = [s for s in settings if not s.is_baseline and math.isfinite(s.mean("fvu"))]
    nearest = min(trained, key=lambda s: s.mean("fvu"), default=v.best)
    for s in [v.best] if nearest is v.best else [v.best, nearest]:
        place = places[s.members[0]]
        yield FirstSeedDictionary(s.title, load(place.train / "dictionary"), place.scores())


def _frontiers(settings: Sequence[Setting], v: Verdict) -> _Drawn:
    lines = "Each line is one method at one width along its sweep, each single mark a baseline; bars are 95% intervals."
    dashes = " The dashed line marks the mean number of active features."
    notes = dashes if any(s.mean("true_l0") > 0 for s in settings) else ""
    n_below = sum(s.mean("l0") < LEAST_L0 for s in settings)
    notes += f" Not drawn: {counted(n_below, 'setting')} with an l0 below {LEAST_L0:g}." if n_below else ""
    axes = "Lower is a better reconstruction, further left a sparser one; 1 is no better than the mean."
    caption = f"{axes} {lines}{notes}"
    yield "l0-fvu", "Error against sparsity", caption, draw_against_l0(settings, "fvu", "fvu", ceiling=1.2)
    caption = f"Higher means that latents are better aligned with features. {lines}{notes}"
    yield "l0-mcc", "Recovery against sparsity", caption, draw_against_l0(settings, "mcc", "mcc")
    caption = f"Higher means that the model's loss increases less. {lines}"
    figure = draw_against_l0(settings, "ce_recovered_mean", "ce_recovered_mean")
    yield "l0-ce-recovered", "Recovered loss against sparsity", caption, figure


def _heat_map(settings: Sequence[Setting]) -> _Drawn:
    caption = (
        "Means over seeds. Left: cosine of each feature with its best latent; additional latents can only raise it. "
        "Right: cosine of each latent with its best feature; superfluous latents lower it. The best cell has a frame."
    )
    yield "mmcs", "Recovery by penalty and width", caption, figures.heat_map(settings)


def _cosines(v: Verdict, places: Sequence[ReportedDictionary]) -> _Drawn:
    place = places[v.best.members[0]]
    vectors = place.vectors()
    if "recovery.matched_latent" not in vectors:
        return
    truth = open_source(place.source, "cpu").truth
    if truth is None:
        return
    represented, decoder = vectors["recovery.represented"].bool(), load(place.train / "dictionary").W_dec
    if int(represented.sum()) * len(decoder) > _MOST_COSINES:
        return
    cosine = cosines(truth.directions[represented], decoder)
    matched = vectors["recovery.matched_latent"][represented]
    figure = figures.cosine_matrix(_array(cosine), matched.numpy(), _array(truth.probability[represented]))
    caption = (
        f"The best dictionary ({v.best.title}, first seed). Dark red on the diagonal: the feature has a latent of "
        "its own. Blue and red off the diagonal: cosines of latents with other features, which are unavoidable in "
        "part if there are more features than dimensions."
    )
    yield "cosines", "Cosines of features and latents", caption, figure


def _recovery(settings: Sequence[Setting], v: Verdict, places: Sequence[ReportedDictionary]) -> _Drawn:
    shown = [
        v.best,
        *(s for s in best_per_method(settings, v.score) if s.label != v.best.label and not s.is_ceiling(v.score)),
    ]
    curves: dict[str, tuple[Array, Array]] = {}
    for s in shown[:6]:
        vectors = places[s.members[0]].vectors()
        if "recovery.best_cosine" in vectors:
            represented = vectors["recovery.represented"].bool()
            pair = vectors["recovery.probability"][represented], vectors["recovery.best_cosine"][represented]
            curves[s.title if s is v.best else s.label] = (_array(pair[0]), _array(pair[1]))
    caption = (
        "The best setting of each method, first seed. Rare features have fewer training samples and are harder to "
        "recover; if all features are equally frequent, they are sorted by recovery. The dashed lines mark .8 and .9, "
        "the thresholds of recovered_80 and recovered_90. The band is a 95% bootstrap interval over features."
    )
    yield "recovery", "Recovery by frequency", caption, figures.recovery(curves)


def _densities(v: Verdict, places: Sequence[ReportedDictionary]) -> _Drawn:
    density: dict[str, Array] = {}
    features: Array | None = None
    for s in (v.trained, v.baseline):
        vectors = {} if s is None else places[s.members[0]].vectors()
        if s is not None and "reconstruction.density" in vectors:
            density[s.title] = _array(vectors["reconstruction.density"])
        if "recovery.probability" in vectors:
            features = _array(vectors["recovery.probability"][vectors["recovery.represented"].bool()])
    caption = (
        "The best trained dictionary and the best baseline, first seed. A latent that represents one feature fires as "
        "often as the feature is active"
        + (" (grey histogram)" if features is not None else "")
        + "; latents that fire more often than any feature respond to several."
    )
    yield "density", "How often latents fire", caption, figures.densities(density, features)


def _losses(settings: Sequence[Setting], v: Verdict, places: Sequence[ReportedDictionary]) -> _Drawn:
    if v.trained is None:
        return
    sweep = sweep_of(settings, v.trained) or [v.trained]
    name = v.trained.penalty[0][0] if v.trained.penalty else ""
    logs = {(s.penalty[0][1] if s.penalty else 0.0): [places[i].log() for i in s.members] for s in sweep}
    caption = (
        f"Every seed of {v.trained.label} with {v.trained.n_latents} latents, on training batches. The loss includes "
        "the penalty: compare the shape of lines of different penalties, not their height. If the loss still falls at "
        "the end, train for more steps."
    )
    yield "training", "Training curves", caption, figures.loss_curves(logs, name)


def _bars(settings: Sequence[Setting], v: Verdict) -> _Drawn:
    shown = best_per_method(settings, v.score)[:6]
    names = {"ce_recovered_mean": "relative to mean ablation", "ce_recovered_zero": "relative to zero ablation"}
    caption = (
        "The best setting of each method. 1: the loss of the unmodified model; 0: the loss with the activations "
        "replaced by their mean or by zero. Zero ablation raises the loss more, so shares relative to it are larger."
    )
    figure = figures.bars(shown, names, "share of the loss recovered")
    yield "ce-recovered", "Loss recovered", caption, figure
    caption = (
        "Held-out AUC, mean over the probed properties, for the best setting of each method. Top: probes on the raw "
        "activations (grey strokes, because they are the same for all). Bottom: probes on latents. The dashed line is "
        "chance; the control with shuffled labels should be there."
    )
    figure = figures.bars(shown, _probes(settings), "AUC", chance=0.5)
    yield "probes", "Latents as probes", caption, figure


def _probes(settings: Sequence[Setting]) -> dict[str, str]:
    names = {
        "logistic": "logistic regression, raw",
        "diff_means": "difference of means, raw",
        "neuron": "best coordinate, raw",
        "nearest": "nearest neighbours, raw",
        "latent": "best single latent",
        "shuffled": "shuffled labels",
    }
    scores = ordered_scores(name for s in settings for name in s.scores if name.startswith("probe_auc_"))
    stems = {score: score.removeprefix("probe_auc_") for score in scores}
    return {score: names.get(stem, _probe_name(stem)) for score, stem in stems.items()}


def _probe_name(stem: str) -> str:
    k = stem.removeprefix("k")
    return f"regression on {k} latent{'s' if k != '1' else ''}" if k.isdigit() else stem


def _array(tensor: Tensor) -> Array:
    return tensor.double().cpu().numpy().astype(np.float64)
