"""Which figures a report shows of one source: what each is drawn from, and how to read it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from torch import Tensor

from pipelines.report import figures
from pipelines.report.findings import Verdict, sweep_of
from pipelines.report.portraits import FirstSeedDictionary
from pipelines.report.scores import ordered_scores
from pipelines.report.settings_table import Setting, champions
from pipelines.report.style import Array
from pipelines.steps.source_steps import kind_of, open_source
from sae.files import load
from sae.numerics.matching import cosines
from sae.registry import kinds

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Picture(NamedTuple):
    """A figure with its file name (without ending), its title, and a caption that says how to read it."""

    name: str
    title: str
    caption: str
    figure: Figure


@dataclass(frozen=True)
class ReportedDictionary:
    """Where one dictionary's source, training and scores lie."""

    source: Path
    train: Path
    score: Path

    def vectors(self) -> dict[str, Tensor]:
        """The vectors among its scores, by name; none where no metric gave any."""
        from safetensors.torch import load_file

        file = self.score / "vectors.safetensors"
        return load_file(file) if file.is_file() else {}

    def scores(self) -> dict[str, float]:
        """Its scores by name, without those that are undefined."""
        found = json.loads((self.score / "scores.json").read_text())["scores"]
        return {name: float(value) for name, value in found.items() if value is not None}

    def log(self) -> list[Mapping[str, float]]:
        """The records of its training; none for a baseline."""
        file = self.train / "log.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def pictures(settings: Sequence[Setting], verdict: Verdict, places: Sequence[ReportedDictionary]) -> Iterator[Picture]:
    """The figures of the settings of one source for which there are data.

    Where a figure shows a single dictionary of a setting, it is that of the first seed, not the best one.
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
    """What a source shows of itself, where its kind has a portrait, and of dictionaries in it."""
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
    """The best dictionary and, where it is another, the trained one that reconstructs best."""
    trained = [s for s in settings if not s.is_baseline and math.isfinite(s.mean("fvu"))]
    nearest = min(trained, key=lambda s: s.mean("fvu"), default=v.best)
    for s in [v.best] if nearest is v.best else [v.best, nearest]:
        place = places[s.members[0]]
        yield FirstSeedDictionary(s.title, load(place.train / "dictionary"), place.scores())


def _frontiers(settings: Sequence[Setting], v: Verdict) -> _Drawn:
    how = "Each line is one method at one width along its sweep, each lone mark a baseline; bars are 95% intervals."
    dashes = " The dashed line marks the number of features that are truly active."
    true = dashes if any(s.mean("true_l0") > 0 for s in settings) else ""
    error = f"Lower is a better reconstruction, further left a sparser one; 1 is no better than the mean. {how}{true}"
    yield "l0-fvu", "Sparsity against error", error, figures.draw_frontier(settings, "fvu", "fvu", ceiling=1.2)
    found = f"Higher means that latents point where the features do. {how}{true}"
    yield "l0-mcc", "Sparsity against recovery", found, figures.draw_frontier(settings, "mcc", "mcc")
    loss = f"Higher means that the model keeps more of its predictions. {how}"
    figure = figures.draw_frontier(settings, "ce_recovered_mean", "ce_recovered_mean")
    yield "l0-ce-recovered", "Sparsity against the model's loss", loss, figure


def _heat_map(settings: Sequence[Setting]) -> _Drawn:
    caption = (
        "Mean over seeds. Left: how near the best latent comes to each feature, which more latents can only raise. "
        "Right: how near each latent is to some feature, which spare latents lower. The best cell is framed."
    )
    yield "mmcs", "Recovery over penalty and width", caption, figures.heat_map(settings)


def _cosines(v: Verdict, places: Sequence[ReportedDictionary]) -> _Drawn:
    place = places[v.best.members[0]]
    vectors = place.vectors()
    if "recovery.matched_latent" not in vectors:
        return
    truth = open_source(place.source, "cpu").truth
    if truth is None:
        return
    represented = vectors["recovery.represented"].bool()
    cosine = cosines(truth.directions[represented], load(place.train / "dictionary").W_dec)
    matched = vectors["recovery.matched_latent"][represented]
    figure = figures.cosine_matrix(latex_array(cosine), matched.numpy(), latex_array(truth.probability[represented]))
    caption = (
        f"The best dictionary ({v.best.title}, first seed). A dark red diagonal is a feature found by a latent of "
        "its own; blue and red off it is what latents share with other features, in part unavoidable where "
        "features outnumber dimensions."
    )
    yield "cosines", "Features and latents, paired", caption, figure


def _recovery(settings: Sequence[Setting], v: Verdict, places: Sequence[ReportedDictionary]) -> _Drawn:
    shown = [
        v.best,
        *(s for s in champions(settings, v.score) if s.label != v.best.label and not s.is_ceiling(v.score)),
    ]
    curves: dict[str, tuple[Array, Array]] = {}
    for s in shown[:6]:
        vectors = places[s.members[0]].vectors()
        if "recovery.best_cosine" in vectors:
            represented = vectors["recovery.represented"].bool()
            pair = vectors["recovery.probability"][represented], vectors["recovery.best_cosine"][represented]
            curves[s.title if s is v.best else s.label] = (latex_array(pair[0]), latex_array(pair[1]))
    caption = (
        "The best setting of each method, first seed. Rare features are seen less often and are found last; where "
        "all are equally frequent they are ranked by how well they are found. Dashes mark .8 and .9, at which a "
        "feature counts as recovered. The band is a 95% bootstrap interval over features."
    )
    yield "recovery", "Recovery by frequency", caption, figures.recovery(curves)


def _densities(v: Verdict, places: Sequence[ReportedDictionary]) -> _Drawn:
    density: dict[str, Array] = {}
    features: Array | None = None
    for s in (v.trained, v.baseline):
        vectors = {} if s is None else places[s.members[0]].vectors()
        if s is not None and "reconstruction.density" in vectors:
            density[s.title] = latex_array(vectors["reconstruction.density"])
        if "recovery.probability" in vectors:
            features = latex_array(vectors["recovery.probability"][vectors["recovery.represented"].bool()])
    caption = (
        "The best trained dictionary and the best baseline, first seed. A latent that stands for a feature fires "
        "as often as it does"
        + (", which is the grey histogram" if features is not None else "")
        + "; mass to its right are latents that fire for more than one thing."
    )
    yield "density", "How often latents fire", caption, figures.densities(density, features)


def _losses(settings: Sequence[Setting], v: Verdict, places: Sequence[ReportedDictionary]) -> _Drawn:
    if v.trained is None:
        return
    sweep = sweep_of(settings, v.trained) or [v.trained]
    name = v.trained.penalty[0][0] if v.trained.penalty else ""
    logs = {(s.penalty[0][1] if s.penalty else 0.0): [places[i].log() for i in s.members] for s in sweep}
    caption = (
        f"Every seed of {v.trained.label} with {v.trained.n_latents} latents, on the training batches. The loss "
        "holds the penalty, so lines of different penalties compare in shape, not in height; a loss that still "
        "falls at the end asks for more steps."
    )
    yield "training", "While training", caption, figures.loss_curves(logs, name)


def _bars(settings: Sequence[Setting], v: Verdict) -> _Drawn:
    shown = champions(settings, v.score)[:6]
    kept = {"ce_recovered_mean": "against mean ablation", "ce_recovered_zero": "against zero ablation"}
    caption = (
        "The best setting of each method: 1 is the model's own loss, 0 the loss with the activations replaced by "
        "their mean, or by zero, which flatters every method alike."
    )
    figure = figures.bars(shown, kept, "share of the loss recovered")
    yield "ce-recovered", "What the model keeps", caption, figure
    caption = (
        "Held-out AUC, mean over the probed properties, for the best setting of each method. Above: probes on the "
        "raw activations, a grey stroke since they are the same for all. Below: probes on latents. The dashed line "
        "is chance, where the shuffled control belongs."
    )
    figure = figures.bars(shown, _probes(settings), "AUC", chance=0.5)
    yield "probes", "Latents as probes", caption, figure


def _probes(settings: Sequence[Setting]) -> dict[str, str]:
    words = {
        "logistic": "logistic regression, raw",
        "diff_means": "difference of means, raw",
        "neuron": "best coordinate, raw",
        "nearest": "nearest neighbours, raw",
        "latent": "best single latent",
        "shuffled": "shuffled labels",
    }
    names = ordered_scores(name for s in settings for name in s.scores if name.startswith("probe_auc_"))
    stems = {name: name.removeprefix("probe_auc_") for name in names}
    return {name: words.get(stem, _probe_of(stem)) for name, stem in stems.items()}


def _probe_of(stem: str) -> str:
    k = stem.removeprefix("k")
    return f"regression on {k} latent{'s' if k != '1' else ''}" if k.isdigit() else stem


def latex_array(tensor: Tensor) -> Array:
    return tensor.double().cpu().numpy().astype(np.float64)
