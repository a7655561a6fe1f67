"""Figures of trained toy networks: geometry of their features, phases, and losses.

After the figures of Elhage et al. 2022, 'Toy Models of Superposition'. A figure is drawn only if the source has its
data. If `vary` has several points, figures show the best instance of each.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pipelines.report.portraits import FirstSeedDictionary, _phases, _polytopes, _training, _weights
from pipelines.report.portraits._points import SweepLine, density, line, thinned
from pipelines.report.style import Array
from pipelines.steps.source_steps import open_source
from sae.analysis.geometry.geometry import PLATEAUS, dimensionality, dimensions_per_feature, interference
from sae.analysis.toy_models.by_active import mean_by_active, network_losses
from sae.analysis.units.neurons import monosemantic_neurons, weight_share
from sae.numerics.matching import unit
from sae.sources.network import REPRESENTED, Hidden

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_Drawn = Iterator[tuple[str, str, str, "Figure | None"]]

_MOST_PANELS = 7
MOST_PLANES = 8
_ROWS = 65_536
"""Largest number of samples for losses by number of active features."""
MOST_NUMBERS = 2**24
"""Largest number of values (samples times features) for the same, to limit memory."""
_ACTIVATIONS = 3000


def draw(directory: Path) -> _Drawn:
    """The figures of a source, from the directory of its finished step."""
    source = open_source(directory, "cpu")
    assert isinstance(source, Hidden)
    for group in (_interference, _planes, _geometry, _phase_diagram, _neurons, _losses):
        yield from group(source)


def overlay(directory: Path, candidates: Sequence[FirstSeedDictionary]) -> _Drawn:
    """Dictionaries in the plane if there are two dimensions, and the errors of the network and of the best dictionary
    by number of active features."""
    source = open_source(directory, "cpu")
    assert isinstance(source, Hidden)
    if source.d_in == 2 and source.config.network.is_linear and source.truth is not None:
        rows, latents = source.batch(0, _ACTIVATIONS, "test").acts, dict[str, Array]()
        for c in candidates:
            firing = (c.dictionary.encode(rows) != 0).any(0)
            latents[f"{c.name}\n{_short_scores(c.scores)}"] = _array(unit(c.dictionary.W_dec)[firing])
        caption = (
            "Blue: vectors of the features that the network represents. Orange: decoder rows of latents that fire, "
            "normalized and drawn longer. An arrow through a dot is a recovered feature, one between two dots a "
            "mixture of both. Grey: activations. First panel: the best dictionary"
            + ("; second panel: the trained dictionary with the lowest error" if len(candidates) > 1 else "")
            + ". Titles have the scores of the first seed, which is drawn."
        )
        truth = _array(source.rows[source.truth.represented])
        figure = _polytopes.dictionaries_in_plane(truth, _array(rows), latents)
        yield "network-found", "Features and decoder rows in the plane", caption, figure
    caption = (
        "Means over held-out samples with exactly this number of active features; bars are 95% intervals. The bias can "
        "cancel the interference of a single active feature, but not that of several, which adds up. The network's "
        "loss is its training objective."
    )
    strata = mean_by_active(*network_losses(source, min(_ROWS, MOST_NUMBERS // source.config.n_features)))
    figure = _training.draw_by_active(strata, _fvu_by_active(candidates[0].scores), candidates[0].name)
    yield "network-active", "Errors by number of active features", caption, figure


def _short_scores(scores: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {scores[name]:.2g}" for name in ("mcc", "fvu") if name in scores)


def _fvu_by_active(scores: Mapping[str, float]) -> dict[int, float]:
    """The scores `fvu_active_<k>` by the number k of active features."""
    fvu = {int(m[1]): value for name, value in scores.items() if (m := re.fullmatch(r"fvu_active_(\d+)", name))}
    return {k: fvu[k] for k in sorted(fvu) if math.isfinite(fvu[k])}


def _interference(source: Hidden) -> _Drawn:
    """Only if the network maps features to features through one linear or tied layer."""
    net = source.config.network
    if len(net.hidden) > 1 or net.residual or not (net.is_linear or net.tied):
        return
    along = line(source)
    panels = [_weights_of(source, source.best(p), text) for p, text in _panels(along, _MOST_PANELS)]
    product = "W Wᵀ" if net.tied else "W W_out"
    caption = (
        f"Matrix: {product}, and next to it the output's bias. The diagonal is how well a feature is reconstructed, "
        "blue and red off the diagonal is interference between features. Bars: the length of each feature's vector, "
        "dark if no other feature uses its dimension and light if others do (sum of their squared projections on it, "
        f"at most 1). Features longer than {REPRESENTED} count as represented.{_best_of(along)}"
    )
    yield "network-interference", "Interference between features", caption, _weights.draw_interference(panels)


def _weights_of(source: Hidden, index: int, label: str) -> _weights.BottleneckWeights:
    p, W = source.networks.parameters, source.networks.W[index]
    out = W.T if source.config.network.tied else p["W_out"][index]
    bias = p["b_out"][index] if "b_out" in p else torch.zeros(out.shape[1])
    length = W.norm(dim=1)
    of_each = (W @ out, bias, length, interference(W), length > REPRESENTED)
    return _weights.BottleneckWeights(label, *(_array(t) for t in of_each))


def _planes(source: Hidden) -> _Drawn:
    """Feature vectors in two dimensions: along `vary`, and of the instances at one point."""
    if source.config.network.hidden[0] != 2 or not source.config.network.is_linear:
        return
    W, first, n = source.networks.W, source.at(source.config.point).start, source.config.instances
    weights = source.config.population().importance[source.index]
    shades = _array(weights) if len(weights.unique()) > 1 and len(weights) == W.shape[1] else None
    shaded = " The darker a vector, the more important is its feature." if shades is not None else ""
    along = line(source)
    if along.name:
        panels = [_polytopes.Vectors(text, _array(W[source.best(p)])) for p, text in _panels(along, 10)]
        caption = f"Each dot is a feature; the circle has radius 1.{shaded}{_best_of(along)}"
        yield "network-vectors", "Feature vectors", caption, _polytopes.vectors(panels, shades)
    ranked = [first + i for i in source.tensors["loss"][source.at(source.config.point)].argsort().tolist()]
    shown = thinned(ranked, MOST_PLANES)
    if source.index not in shown:
        shown = sorted([*shown[:-2], source.index, shown[-1]], key=ranked.index)
    losses = source.tensors["loss"]
    panels = [_polytopes.Vectors(f"instance {i - first}\nloss {float(losses[i]):.3g}", _array(W[i])) for i in shown]
    instances = f" {len(shown)} of {n} instances" if n > len(shown) else " All instances"
    caption = (
        f"Each dot is a feature; the circle has radius 1.{instances}, sorted by loss, lowest first. The highlighted "
        "one, selected on separate samples, provides the activations of the source. Instances differ only in their "
        f"initial weights.{shaded}"
    )
    figure = _polytopes.vectors(panels, shades, shown.index(source.index)) if n > 1 else None
    yield "network-instances", "Feature vectors of instances", caption, figure


def _geometry(source: Hidden) -> _Drawn:
    """Dimensionality of features against density and against dropout."""
    if not source.config.network.is_linear:
        return
    histograms = (
        f"Vertical histograms of the dimensionality D_i of the features longer than {REPRESENTED}, whose number is on "
        "top; each histogram is scaled to its largest bin. "
    )
    for name in source.config.vary:
        along = line(source, name)
        rows = [source.networks.W[source.best(p)] for p in along.points]
        shares = [_array(dimensionality(W)[W.norm(dim=1) > REPRESENTED]) for W in rows]
        if name.startswith("activity"):
            at = 1 / np.array([density(source, p) for p in along.points])
            if len(set(at.tolist())) == len(at) > 1:
                star = np.array([dimensions_per_feature(W) for W in rows])
                levels = {f"{text} {_fraction(level)}".strip(): level for text, level in PLATEAUS.items() if level}
                caption = histograms + (
                    "The line is D* = m / ||W||², the dimensions per feature of norm one. Features of equal importance "
                    f"form polytopes, whose dimensionalities are labelled.{_best_of(along)}"
                )
                name = "1 / density of features"
                figure = _polytopes.dimensionalities(at, shares, levels, name, star, log=True)
                yield "network-dimensions", "Dimensions per feature", caption, figure
        elif name == "network.dropout" and along.name:
            at = np.array([source.points[p].network.dropout for p in along.points])
            levels = {_fraction(1 / k): 1 / k for k in range(1, 6)}
            caption = histograms + f"Lines mark the fractions 1/k.{_best_of(along)}"
            figure = _polytopes.dimensionalities(at, shares, levels, "dropout", log=False)
            yield "network-dropout", "Dimensions per feature under dropout", caption, figure


def _fraction(level: float) -> str:
    return next(f"{round(level * k)}/{k}" if k > 1 else f"{level:g}" for k in range(1, 9) if abs(level * k % 1) < 1e-9)


def _phase_diagram(source: Hidden) -> _Drawn:
    """Phases of the last of two features in one dimension, or of three in two, by its importance and the density."""
    config = source.config
    shape = config.n_features, config.network.hidden
    if set(config.vary) != {"importance", "activity.probability"} or shape not in ((2, (1,)), (3, (2,))):
        return
    if not (config.network.is_linear and config.network.tied):
        return
    grid = _grid_of_phases(source)
    if grid is None:
        return
    importance, dense, parts = grid
    caption = (
        f"How the last of {shape[0]} features in {shape[1][0]} dimension{'s' if shape[1][0] > 1 else ''} is "
        f"represented. Left: the best of {config.instances} trained networks in each cell; mixed colours mean that "
        "vectors are short or share only part of a dimension. Right: the arrangement of least loss in closed form; its "
        "borders are drawn on both. Rare features are seldom active together, so the losses of the arrangements differ "
        "by less than training can resolve."
    )
    figure = _phases.phase_diagram(importance, dense, parts, shape[0])
    yield "network-phases", "Phase diagram", caption, figure


def _grid_of_phases(source: Hidden) -> tuple[Array, Array, Array] | None:
    """Importance of the last feature and density, both ascending, and the composition of its phases in the best network
    of each cell; None if the other features differ in importance."""
    config, points = source.config, range(len(source.points))
    weights = config.population().importance[:: config.instances]
    if bool((weights[:, :-1] != weights[:, :1]).any()):
        return None
    ratio = (weights[:, -1] / weights[:, 0]).tolist()
    dense = [density(source, p) for p in points]
    across, up = sorted(set(ratio)), sorted(set(dense))
    parts = np.zeros((len(up), len(across), len(_phases.PHASES)))
    for p in points:
        W = source.networks.W[source.best(p)]
        parts[up.index(dense[p]), across.index(ratio[p])] = _phases.composition(_array(W))
    return np.array(across), np.array(up), parts


def _neurons(source: Hidden) -> _Drawn:
    """Stacks of the weights of neurons with a nonlinearity."""
    if source.config.network.is_linear:
        return
    panels: list[_weights.NeuronWeights] = []
    along = line(source)
    for p, text in _panels(along, 6):
        W = source.networks.W[source.best(p)]
        share = weight_share(W)
        panels.append(_weights.NeuronWeights(text, _array(W), _array(share), _array(monosemantic_neurons(share))))
    caption = (
        "Each bar is a neuron of the first hidden layer: its weights from each feature in the feature's colour (dark "
        "for the first, light for the last feature, grey for the sum of small weights), positive weights upward, "
        f"negative ones downward; at most {_weights.MOST_NEURONS} neurons. The square below is blue if one feature has "
        "more than .9 of the squared weight, else orange; that largest share is written above if there is "
        f"room.{_best_of(along)}"
    )
    yield "network-neurons", "Weights of neurons", caption, _weights.stacks(panels)


def _losses(source: Hidden) -> _Drawn:
    along, at = line(source), source.at(source.config.point)
    final = [_array(source.tensors["loss"][source.at(p)]) for p in along.points]
    chosen = along.points.index(source.config.point), source.index - at.start
    step, history = _array(source.tensors["history_step"]), _array(source.tensors["history"][:, at])
    where = f" at {along.labels[chosen[0]]}" if along.name else ""
    caption = (
        f"Left: loss on training batches of every instance{where}. Right: final loss on held-out samples. The dark "
        "instance provides the activations of the source. Instances have the same training samples and differ in their "
        "initial weights."
    )
    figure = _training.training(step, history, final, along.labels, chosen)
    yield "network-training", "Training the networks", caption, figure


def _panels(along: SweepLine, most: int) -> list[tuple[int, str]]:
    return thinned(list(zip(along.points, along.labels, strict=True)), most)


def _best_of(along: SweepLine) -> str:
    return " The best instance of each point is shown." if along.name else ""


def _array(tensor: Tensor) -> Array:
    return tensor.detach().double().numpy()
