"""What trained toy networks show of themselves: how features lie in them, what decides it, and what it costs.

After the figures of Elhage et al. 2022, 'Toy Models of Superposition'. Each is drawn only where the source has what it
shows; where `vary` spans several points, of the best instance of each.
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
"""Rows by which losses are told apart by how many features are active; fewer where they would fill the memory."""
MOST_NUMBERS = 2**24
_ACTIVATIONS = 3000


def draw(directory: Path) -> _Drawn:
    """The figures of the source of a finished step."""
    source = open_source(directory, "cpu")
    assert isinstance(source, Hidden)
    for group in (_interference, _planes, _geometry, _phase_diagram, _neurons, _losses):
        yield from group(source)


def overlay(directory: Path, candidates: Sequence[FirstSeedDictionary]) -> _Drawn:
    """What dictionaries find in the plane of two dimensions, and the errors of the network and of the best of them by
    how many features are active."""
    source = open_source(directory, "cpu")
    assert isinstance(source, Hidden)
    if source.d_in == 2 and source.config.network.is_linear and source.truth is not None:
        rows, latents = source.batch(0, _ACTIVATIONS, "test").acts, dict[str, Array]()
        for c in candidates:
            firing = (c.dictionary.encode(rows) != 0).any(0)
            latents[f"{c.name}\n{_told(c.scores)}"] = _array(unit(c.dictionary.W_dec)[firing])
        caption = (
            "Blue: the vectors of the features that the network represents, as long as it made them. Orange: the "
            "decoder rows whose latents fire, all of length one and drawn longer. An arrow through a dot is a feature "
            "found; one between two dots is a mixture. Grey: activations. First, the best dictionary"
            + (", then the trained one that reconstructs best" if len(candidates) > 1 else "")
            + ", each with the scores of its first seed, which is the one drawn."
        )
        figure = _polytopes.found(_array(source.rows[source.truth.represented]), _array(rows), latents)
        yield "network-found", "Features in the plane, and what dictionaries find", caption, figure
    caption = (
        "The mean over held-out rows with exactly so many active features; bars are 95% intervals. One feature alone "
        "disturbs the others by what a bias can take away; several at once add up to what they are not. The network's "
        "loss is what it was trained on."
    )
    strata = mean_by_active(*network_losses(source, min(_ROWS, MOST_NUMBERS // source.config.n_features)))
    figure = _training.draw_by_active(strata, _levels(candidates[0].scores), candidates[0].name)
    yield "network-active", "Errors by how many features are active", caption, figure


def _told(scores: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {scores[name]:.2g}" for name in ("mcc", "fvu") if name in scores)


def _levels(scores: Mapping[str, float]) -> dict[int, float]:
    """The error by number of active features, where metrics gave it."""
    found = {int(m[1]): value for name, value in scores.items() if (m := re.fullmatch(r"fvu_active_(\d+)", name))}
    return {k: found[k] for k in sorted(found) if math.isfinite(found[k])}


def _interference(source: Hidden) -> _Drawn:
    """Only where the network maps features to features through one linear or tied layer."""
    net = source.config.network
    if len(net.hidden) > 1 or net.residual or not (net.is_linear or net.tied):
        return
    along = line(source)
    panels = [_weights_of(source, source.best(p), text) for p, text in _panels(along, _MOST_PANELS)]
    product = "W Wᵀ" if net.tied else "W W_out"
    caption = (
        f"Squares: {product} and, beside it, the output's bias; the diagonal is what a feature keeps of itself, blue "
        "and red off it are what features read of each other. Bars: the length of each feature's vector, darker where "
        "it has its dimension to itself and lighter where others write along it (the sum over them of their squared "
        f"projections, up to 1); longer than {REPRESENTED} counts as represented.{_best_of(along)}"
    )
    yield "network-interference", "What features share", caption, _weights.draw_interference(panels)


def _weights_of(source: Hidden, index: int, label: str) -> _weights.BottleneckWeights:
    p, W = source.networks.parameters, source.networks.W[index]
    out = W.T if source.config.network.tied else p["W_out"][index]
    bias = p["b_out"][index] if "b_out" in p else torch.zeros(out.shape[1])
    length = W.norm(dim=1)
    of_each = (W @ out, bias, length, interference(W), length > REPRESENTED)
    return _weights.BottleneckWeights(label, *(_array(t) for t in of_each))


def _planes(source: Hidden) -> _Drawn:
    """Feature vectors in two dimensions, along `vary`, and of the instances of one point."""
    if source.config.network.hidden[0] != 2 or not source.config.network.is_linear:
        return
    W, first, n = source.networks.W, source.at(source.config.point).start, source.config.instances
    weights = source.config.population().importance[source.index]
    shades = _array(weights) if len(weights.unique()) > 1 and len(weights) == W.shape[1] else None
    shaded = " Darker vectors are of more important features." if shades is not None else ""
    along = line(source)
    if along.name:
        panels = [_polytopes.Vectors(text, _array(W[source.best(p)])) for p, text in _panels(along, 10)]
        caption = f"Every dot is a feature; the circle has radius one.{shaded}{_best_of(along)}"
        yield "network-vectors", "Feature vectors", caption, _polytopes.vectors(panels, shades)
    ranked = [first + i for i in source.tensors["loss"][source.at(source.config.point)].argsort().tolist()]
    shown = thinned(ranked, MOST_PLANES)
    if source.index not in shown:
        shown = sorted([*shown[:-2], source.index, shown[-1]], key=ranked.index)
    losses = source.tensors["loss"]
    panels = [_polytopes.Vectors(f"instance {i - first}\nloss {float(losses[i]):.3g}", _array(W[i])) for i in shown]
    of = f" {len(shown)} of {n} instances" if n > len(shown) else " The instances"
    caption = (
        f"Every dot is a feature; the circle has radius one.{of} from the lowest to the highest loss; marked is the "
        f"one whose activations are read, chosen on other rows. What differs is only where they began.{shaded}"
    )
    figure = _polytopes.vectors(panels, shades, shown.index(source.index)) if n > 1 else None
    yield "network-instances", "Feature vectors of instances", caption, figure


def _geometry(source: Hidden) -> _Drawn:
    """How dimensions are shared out along density and along dropout."""
    if not source.config.network.is_linear:
        return
    counted = (
        f"Upright histograms of D_i, a feature's share of a dimension, over the features longer than {REPRESENTED}, "
        "whose number stands above; each is as wide as its fullest bin. "
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
                caption = counted + (
                    "The line is D* = m / ||W||², the dimensions per feature of norm one. Features of equal importance "
                    f"settle in the polytopes whose levels are named.{_best_of(along)}"
                )
                name = "1 / density of features"
                figure = _polytopes.dimensionalities(at, shares, levels, name, star, log=True)
                yield "network-dimensions", "Dimensions per feature", caption, figure
        elif name == "network.dropout" and along.name:
            at = np.array([source.points[p].network.dropout for p in along.points])
            levels = {_fraction(1 / k): 1 / k for k in range(1, 6)}
            caption = counted + f"Fractions of whole numbers are named at the side.{_best_of(along)}"
            figure = _polytopes.dimensionalities(at, shares, levels, "dropout", log=False)
            yield "network-dropout", "Dimensions per feature under dropout", caption, figure


def _fraction(level: float) -> str:
    return next(f"{round(level * k)}/{k}" if k > 1 else f"{level:g}" for k in range(1, 9) if abs(level * k % 1) < 1e-9)


def _phase_diagram(source: Hidden) -> _Drawn:
    """The last of two features in one dimension, or of three in two, over its importance and the density."""
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
        f"What becomes of the last of {shape[0]} features that share {shape[1][0]} "
        f"dimension{'s' if shape[1][0] > 1 else ''}. Left, the best of {config.instances} trained networks in each "
        "cell; mixed colours mean that vectors are short or only partly share a dimension. Right, the arrangement of "
        "least loss in closed form, whose borders are drawn on both. Where features are rare they seldom meet, and "
        "arrangements differ by less than training tells apart."
    )
    figure = _phases.phase_diagram(importance, dense, parts, shape[0])
    yield "network-phases", "Phase diagram", caption, figure


def _grid_of_phases(source: Hidden) -> tuple[Array, Array, Array] | None:
    """Importance of the last feature and density, both rising, and what the best network made of it at each; None where
    the others' importance differs."""
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
    """Stacks of the weights of neurons behind a nonlinearity."""
    if source.config.network.is_linear:
        return
    panels: list[_weights.NeuronWeights] = []
    along = line(source)
    for p, text in _panels(along, 6):
        W = source.networks.W[source.best(p)]
        share = weight_share(W)
        panels.append(_weights.NeuronWeights(text, _array(W), _array(share), _array(monosemantic_neurons(share))))
    caption = (
        "Every bar is a neuron of the first hidden layer: its weights from each feature, in the feature's colour (dark "
        "is the first, light the last; small ones together in grey), positive stacked upward, negative downward, "
        f"of at most {_weights.MOST_NEURONS} neurons. Blue below marks a neuron of "
        "which one feature has more than .9 of the squared weight, orange one that several share; where there is "
        f"room that largest share stands above.{_best_of(along)}"
    )
    yield "network-neurons", "What neurons are made of", caption, _weights.stacks(panels)


def _losses(source: Hidden) -> _Drawn:
    along, at = line(source), source.at(source.config.point)
    final = [_array(source.tensors["loss"][source.at(p)]) for p in along.points]
    chosen = along.points.index(source.config.point), source.index - at.start
    step, history = _array(source.tensors["history_step"]), _array(source.tensors["history"][:, at])
    where = f" at {along.labels[chosen[0]]}" if along.name else ""
    caption = (
        f"Left, the loss of training batches of every instance{where}; right, the loss on held-out rows in the end. "
        "Dark is the instance whose activations are read. Instances see the same rows and differ in how they began."
    )
    figure = _training.training(step, history, final, along.labels, chosen)
    yield "network-training", "Training the networks", caption, figure


def _panels(along: SweepLine, most: int) -> list[tuple[int, str]]:
    return thinned(list(zip(along.points, along.labels, strict=True)), most)


def _best_of(along: SweepLine) -> str:
    return " Shown is the best instance of each point." if along.name else ""


def _array(tensor: Tensor) -> Array:
    return tensor.detach().double().numpy()
