"""Figures of feature geometry: vectors in two dimensions, and dimensionality of features in more."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pipelines.report.style import FAINT, INK, RULE, Array, Label, canvas, label_ends, plain_log, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FEATURE, LATENT, CLOUD = "#0072B2", "#D55E00", "#8a8f98"
MOST_POINTS = 700
"""Largest number of activations drawn, to limit the size of the page."""
MOST_OUTLINED = 12
"""Largest number of features that get an outline; with more it would look like a circle."""


class Vectors(NamedTuple):
    """Feature vectors of one network."""

    label: str
    """Title of the panel."""
    rows: Array
    """The vectors, ``[n, 2]``."""


@styled
def vectors(panels: Sequence[Vectors], importance: Array | None = None, marked: int = -1) -> Figure | None:
    """The feature vectors of each network in the plane, on one scale; the `marked` network in blue, or, with
    `importance`, features coloured by it."""
    panels = [p for p in panels if p.rows.size]
    if not panels or any(p.rows.shape[1] != 2 for p in panels):
        return None
    columns = min(len(panels), 4 if len(panels) <= 8 else 5)
    rows = math.ceil(len(panels) / columns)
    figure, axes = canvas(1.75 * columns, 1.95 * rows, columns, rows)
    reach = 1.12 * max(1.0, max(float(np.linalg.norm(p.rows, axis=1).max()) for p in panels))
    for i, (ax, panel) in enumerate(zip(axes, panels, strict=False)):
        single = FEATURE if i == marked or marked < 0 else FAINT
        _plane(ax, reach)
        _outline(ax, panel.rows, single)
        colours = [single] * len(panel.rows) if importance is None else _shades(importance)
        for (x, y), colour in zip(panel.rows.tolist(), colours, strict=True):
            ax.plot([0, x], [0, y], color=colour, lw=1.6 if i == marked else 1.2)
            ax.plot([x], [y], "o", color=colour, ms=4.5 if i == marked else 3.5, clip_on=False)
        ax.set_title(panel.label, fontsize=8, loc="center", pad=4, color=INK if i == marked or marked < 0 else FAINT)
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    return figure


def _plane(ax: Axes, reach: float) -> None:
    ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    angle = np.linspace(0, 2 * np.pi, 200)
    ax.plot(np.cos(angle), np.sin(angle), color=RULE, lw=0.7, zorder=0)
    ax.plot([0], [0], "+", color=FAINT, ms=4, mew=0.7, zorder=0)


def _outline(ax: Axes, rows: Array, colour: str) -> None:
    """The polygon of the represented features, in the order of their angles."""
    long = rows[np.linalg.norm(rows, axis=1) > 0.5]
    if 3 <= len(long) <= MOST_OUTLINED:
        long = long[np.argsort(np.arctan2(long[:, 1], long[:, 0]))]
        ax.fill(long[:, 0], long[:, 1], facecolor=colour, alpha=0.08, edgecolor="none", zorder=0)
        ax.plot(*np.vstack([long, long[:1]]).T, color=colour, lw=0.7, alpha=0.5, zorder=1)


def _shades(importance: Array) -> list[Any]:
    from matplotlib import colormaps

    order = np.argsort(np.argsort(-importance, kind="stable"), kind="stable")
    return [colormaps["viridis"](0.92 * rank / max(len(order) - 1, 1)) for rank in order.tolist()]


@styled
def dictionaries_in_plane(features: Array, points: Array, latents: Mapping[str, Array]) -> Figure | None:
    """Feature vectors ``[n, 2]`` over activations ``[batch, 2]``, with one panel per dictionary that shows its unit
    decoder rows ``[n_latents, 2]`` as longer arrows."""
    latents = {name: rows for name, rows in latents.items() if len(rows)}
    if not latents or not len(features) or features.shape[1] != 2:
        return None
    figure, axes = canvas(3.3 * len(latents), 3.9, len(latents))
    longest = max(1.0, float(np.linalg.norm(features, axis=1).max()))
    far = np.linalg.norm(points, axis=1)
    inside = points[(far > 0) & (far <= 1.3 * longest)][:MOST_POINTS]  # samples without features are all at the centre
    for ax, (name, rows) in zip(axes, latents.items(), strict=True):
        _plane(ax, 1.34 * longest)
        ax.set_title(name, loc="center", fontsize=8.5, pad=2)
        ax.scatter(*inside.T, s=3, color=CLOUD, alpha=0.45, linewidths=0, zorder=0)
        _outline(ax, features, FEATURE)
        for x, y in features.tolist():
            ax.plot([0, x], [0, y], color=FEATURE, lw=5, alpha=0.35, solid_capstyle="round", zorder=2)
        ax.plot(*features.T, "o", color=FEATURE, ms=8, zorder=3, label="features")
        for x, y in (1.24 * longest * rows).tolist():
            style = {"arrowstyle": "-|>,head_width=0.22,head_length=0.45", "color": LATENT, "lw": 1.5}
            ax.annotate("", (x, y), (0, 0), arrowprops={**style, "shrinkA": 0, "shrinkB": 0}, zorder=4)
        ax.plot([], [], color=LATENT, lw=1.5, label="decoder rows")
        ax.plot([], [], "o", color=CLOUD, ms=3, label="activations")
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, fontsize=8, handlelength=1.3, columnspacing=1.4)
    return figure


@styled
def dimensionalities(
    at: Array,
    shares: Sequence[Array],
    lines: Mapping[str, float],
    name: str,
    star: Array | None = None,
    log: bool = False,
) -> Figure | None:
    """The dimensionalities D_i of the features of one network at each x value, as vertical histograms, and `star`, the
    dimensions per feature, as a line. `lines` maps names to levels."""
    if len(at) < 2 or not any(len(s) for s in shares):
        return None
    figure, (ax,) = canvas(7.4, 4.2)
    top = max(1.08, *(float(s.max()) for s in shares if len(s)), 0 if star is None else 1.04 * min(star.max(), 1.5))
    edges = np.linspace(0, top, round(top / 0.0125) + 1)
    place = np.log10(at) if log else at
    room = 0.46 * float(np.diff(np.sort(place)).min())
    for level in lines.values():
        ax.axhline(level, color=RULE, lw=0.8, zorder=0)
    for x, values in zip(place.tolist(), shares, strict=True):
        count = np.histogram(values, edges)[0]
        half = room * count / max(int(count.max()), 4)  # bars of fewer than four features stay narrow
        left, right = (10 ** (x - half), 10 ** (x + half)) if log else (x - half, x + half)
        ax.barh(edges[:-1], right - left, np.diff(edges), left=left, align="edge", color=FEATURE, linewidth=0)
        ax.annotate(f"{len(values)}", (10**x if log else x, 1), (0, 3), xycoords=("data", "axes fraction"),
                    textcoords="offset points", ha="center", fontsize=7.5, color=FAINT)  # fmt: skip
    if star is not None:
        ax.plot(at, star, color=LATENT, lw=1.4, marker="o", ms=3.5, clip_on=True)
    ax.set(xscale="log" if log else "linear", ylim=(0, top), ylabel="dimensionality of a feature", xlabel=name)
    frame = np.array([place.min() - 1.5 * room, place.max() + 1.5 * room])
    ax.set_xlim(*(10**frame if log else frame))
    ax.grid(False)
    if log:
        plain_log(ax.xaxis)
    else:
        ax.set_xticks(at)
    side = ax.get_xlim()[1]
    ends: list[Label] = [(side, level, text, FAINT) for text, level in lines.items()]
    if star is not None:
        ends.append((side, float(star[at.argmax()]), "D*", LATENT))
    label_ends(ax, ends)
    return figure
