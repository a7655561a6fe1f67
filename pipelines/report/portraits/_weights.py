"""Figures of weights: interference between features, their lengths, and the features of neurons."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from pipelines.report.style import FAINT, INK, RULE, Array, canvas, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_FEATURES = 100
"""Largest number of features for which the matrix is drawn; with more its cells are too small to see."""
MOST_NEURONS, MOST_WEIGHTS = 60, 20
"""Largest number of neurons drawn, evenly spaced among all, and of single weights drawn per neuron."""
MONO, POLY = "#0072B2", "#D55E00"


class BottleneckWeights(NamedTuple):
    """Weights of a network with a bottleneck."""

    label: str
    """Title of the panel."""
    product: Array
    """``W W_out [n, n]``; W W^T if the weights are tied."""
    bias: Array
    """Bias of the output."""
    length: Array
    """Length of each feature's vector."""
    shared: Array
    """Sum of the squared projections of the other features on each feature."""
    represented: Array
    """Whether each feature counts as represented."""


@styled
def draw_interference(panels: Sequence[BottleneckWeights]) -> Figure | None:
    """One column per network: on top W W^T and the bias, below the lengths of features."""
    panels = [p for p in panels if 0 < len(p.product) <= MOST_FEATURES and p.product.shape[0] == p.product.shape[1]]
    if not panels:
        return None
    k, one = len(panels), len(panels) == 1
    width = 3.0 if one else max(1.5, min(2.4, 10.2 / k))
    figure, axes = canvas(2 * width + 1.4 if one else k * width + 1.0, (1.0 if one else 2) * width + 0.5, *_shape(k))
    above, below = axes[:k], axes[k:]
    image = bars = None
    top = max(float(p.length.max()) for p in panels)
    for i, (panel, ax, under) in enumerate(zip(panels, above, below, strict=True)):
        image = _product(ax, panel, first=i == 0)
        bars = _lengths(under, panel, top, first=i == 0 and not one)
        if one:
            rows, columns = image.get_array().shape
            under.set_box_aspect(rows / columns)
    named = ((image, above, r"$W W^{\mathsf{T}}$ and $b$", [-1, 0, 1]), (bars, below, "shared", [0, 1]))
    for shown, on, name, ticks in named:
        bar = figure.colorbar(cast(Any, shown), ax=on, shrink=0.7, aspect=16, pad=0.02, label=name, ticks=ticks)
        cast(Any, bar.outline).set_visible(False)
    return figure


def _shape(k: int) -> tuple[int, int]:
    """Columns and rows: the two panels of a single network are side by side, those of several one above the other."""
    return (2, 1) if k == 1 else (k, 2)


def _product(ax: Axes, panel: BottleneckWeights, first: bool) -> Any:
    """The matrix, and next to it the bias as a separate column."""
    n = len(panel.product)
    gap, wide = max(1, n // 10), max(1, n // 12)
    column = np.repeat(panel.bias[:, None], wide, axis=1)
    joined = np.concatenate([panel.product, np.full((n, gap), np.nan), column], axis=1)
    image = ax.imshow(joined, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    ax.set_xticks([n / 2 - 0.5, n + gap + wide / 2 - 0.5], [r"$W W^{\mathsf{T}}$", "$b$"])
    _bare(ax, n, "feature" if first else "")
    ax.set_title(panel.label)
    return image


def _lengths(ax: Axes, panel: BottleneckWeights, top: float, first: bool) -> Any:
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    n, shade = len(panel.length), ScalarMappable(Normalize(0, 1), colormaps["cividis"])
    ax.barh(np.arange(n), panel.length, height=0.8, color=cast(Any, shade.to_rgba(cast(Any, panel.shared.clip(0, 1)))))
    ax.set(xlim=(0, 1.05 * top), ylim=(n - 0.5, -0.5), xlabel=r"length $\|W_i\|$", xticks=[0, 1 if top >= 1 else 0.5])
    _bare(ax, n, "feature" if first else "")
    ax.set_title(f"{int(panel.represented.sum())} represented", color=FAINT)
    return shade


def _bare(ax: Axes, n: int, name: str) -> None:
    ax.set_yticks([0, n - 1] if name else [])
    ax.set_ylabel(name, labelpad=-4 if n > 9 else 2)
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)


class NeuronWeights(NamedTuple):
    """Weights from features into neurons."""

    label: str
    """Title of the panel."""
    weights: Array
    """The weights, ``[n_features, d_hidden]``."""
    share: Array
    """The largest share of a neuron's squared weight that one feature has; NaN for a neuron without weights."""
    mono: Array
    """Whether the neuron is monosemantic by that share."""


@styled
def stacks(panels: Sequence[NeuronWeights]) -> Figure | None:
    """Each neuron as a stack of its weights, one colour per feature; monosemantic neurons come first."""
    panels = [p for p in panels if p.weights.size and np.abs(p.weights).max() > 0]
    if not panels:
        return None
    columns = min(len(panels), 3)
    rows = math.ceil(len(panels) / columns)
    widest = min(max(p.weights.shape[1] for p in panels), MOST_NEURONS)
    each = 5.6 if len(panels) == 1 else max(3.6, min(5.6, 0.09 * widest))
    figure, axes = canvas(min(11.2, each * columns), 2.7 * rows + 0.2, columns, rows)
    for ax, panel in zip(axes, panels, strict=False):
        _stack(ax, panel)
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    for row in range(rows):
        axes[row * columns].set_ylabel("weight")
    return figure


def _stack(ax: Axes, panel: NeuronWeights) -> None:
    from matplotlib import colormaps

    order = _sorted(panel)
    order = order[np.linspace(0, len(order) - 1, min(MOST_NEURONS, len(order))).round().astype(int)]
    weights, share, mono = panel.weights[:, order], panel.share[order], panel.mono[order].astype(bool)
    n, d = weights.shape
    up, down = np.zeros(d), np.zeros(d)
    place = np.arange(d)
    # The largest weight is next to the axis.
    by_size = np.argsort(-np.abs(weights), axis=0, kind="stable")
    colours = colormaps["viridis"](np.linspace(0, 0.95, n))
    for rank in range(min(n, MOST_WEIGHTS)):
        feature = by_size[rank]
        w = weights[feature, place]
        bottom = np.where(w >= 0, up, down)
        ax.bar(place, w, 0.8, bottom=bottom, color=cast(Any, colours[feature]), edgecolor="white", linewidth=0.3)
        up, down = up + w.clip(min=0), down + w.clip(max=0)
    rest = np.take_along_axis(weights, by_size[MOST_WEIGHTS:], axis=0)
    for more, bottom in ((rest.clip(min=0).sum(0), up), (rest.clip(max=0).sum(0), down)):
        if more.any():
            ax.bar(place, more, 0.8, bottom=bottom, color=RULE)
        bottom += more
    ax.axhline(0, color=INK, lw=0.6)
    high, low = max(up.max(), 1e-9), min(down.min(), 0.0)
    ax.set_ylim(low - 0.16 * (high - low), high + (0.16 if d <= 24 else 0.05) * (high - low))
    known = np.isfinite(share)
    tint = np.where(known, np.where(mono, MONO, POLY), RULE)
    ax.scatter(place, np.full(d, low - 0.09 * (high - low)), s=14, marker="s", color=tint.tolist(), linewidths=0)
    for k in place[known] if d <= 24 else ():
        text = f"{share[k]:.2f}".lstrip("0") if share[k] < 0.995 else "1"
        ax.annotate(text, (k, up[k]), (0, 2), textcoords="offset points", ha="center", fontsize=6.5, color=tint[k])
    ax.set_xticks([])
    ax.set_xlim(-0.7, d - 0.3)
    ax.grid(axis="x", visible=False)
    counted = f"{int(panel.mono.sum())} of {len(panel.mono)} neurons are monosemantic"
    ax.set_title(f"{panel.label}: {counted}" if panel.label else counted)


def _sorted(panel: NeuronWeights) -> Any:
    """Monosemantic neurons first, neurons without weights last; within each group sorted by their largest feature."""
    most = np.abs(panel.weights).argmax(0)
    group = np.where(np.isfinite(panel.share), np.where(panel.mono.astype(bool), 0, 1), 2)
    return np.lexsort((most, group))
