"""The figures of a suite: pure functions from a comparison to a figure; None if there is nothing to show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pipelines.bench.comparison import Comparison
from pipelines.bench.families import Entry, Family
from pipelines.bench.sweep_curve import shared_range
from pipelines.report.style import FAINT, INK, Label, canvas, marks, place_labels, plain_log, styled
from sae.numerics.paired_tests import nested_mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

N_GRID = 40
DECILES = range(1, 11)
MOST_CURVES = 6
"""Largest number of methods in the figure of the deciles, not counting chance and ceilings."""
MOST_ROWS = 18
"""Largest number of methods in the figure of all dictionaries."""


_FLOOR = {"explained_variance": 0.0}
"""Lower end of the axis for scores without a lower bound; smaller values are drawn there with a label."""


@styled
def draw_sweep_curves(c: Comparison, score: str) -> Figure | None:
    """A score against L0: the mean of each sweep over data sets with its 95% band, a dot for each dictionary, and a
    mark with its interval for each method without a sweep."""
    swept = [e.family for e in c.entries if e.family.is_swept]
    alone = [e for e in c.entries if not e.family.is_swept and e.estimate("l0").mean > 0]
    alone = [e for e in alone if math.isfinite(e.estimate(score).mean)]
    figure, (ax,) = canvas(5.6, 4.2)
    look = marks([e.family.label for e in c.entries])
    labels: list[Label] = []
    paths: list[list[tuple[float, float]]] = []
    for family in swept:
        drawn = _band(ax, family, score, *look[family.label])
        if drawn:
            paths.append(drawn)
            x, y = max(drawn, key=lambda point: point[1])
            labels.append((x, y, family.label, look[family.label][0]))
    if not paths:
        return None
    floor = _FLOOR.get(score, -math.inf)
    for e in alone:
        x, y = e.estimate("l0"), e.estimate(score)
        colour, marker = look[e.family.label]
        inside = y.mean >= floor
        half = None if math.isnan(y.half) or not inside else y.half
        ax.errorbar(x.mean, max(y.mean, floor), half, color=colour, marker=marker, ms=5, elinewidth=1)
        text = e.family.label if inside else f"{e.family.label} ↓ {y.mean:.3g}"
        labels.append((x.mean, max(y.mean, floor), text, colour))
        paths.append([(x.mean, max(y.mean, floor))])
    ax.set(xscale="log", xlabel="l0, active latents per sample", ylabel=score)
    plain_log(ax.xaxis)
    if math.isfinite(floor):
        ax.set_ylim(bottom=floor - 0.03)
    if math.isfinite(c.l0):
        ax.axvline(c.l0, color=FAINT, lw=1, ls=(0, (4, 3)), zorder=0)
        ax.text(c.l0, 1.015, "compared at", color=FAINT, ha="center", va="bottom", transform=ax.get_xaxis_transform())
    place_labels(ax, labels, paths)
    return figure


def _band(ax: Axes, family: Family, score: str, colour: str, marker: str) -> list[tuple[float, float]]:
    """Draws a sweep and returns the points of its mean."""
    by_data = family.curves(score)
    curves = [curve for seeds in by_data.values() for curve in seeds if len(curve.log_l0)]
    for curve in curves:
        ax.scatter(np.exp(curve.log_l0), curve.score, s=5, color=colour, alpha=0.35, lw=0)
    low, high = shared_range(curves)
    if not low < high:
        return []
    grid = np.exp(np.linspace(math.log(low), math.log(high), N_GRID))
    means = [nested_mean([[curve.at(float(x)) for curve in seeds] for seeds in by_data.values()]) for x in grid]
    mean, half = (np.array([getattr(m, name) for m in means]) for name in ("mean", "half"))
    half = np.nan_to_num(half)
    ax.fill_between(grid, mean - half, mean + half, color=colour, alpha=0.16, lw=0)
    ax.plot(grid, mean, color=colour, lw=1.4)
    ax.plot(grid[:1], mean[:1], color=colour, marker=marker, ms=4)
    return list(zip(grid.tolist(), mean.tolist(), strict=True))


@styled
def draw_dictionaries(c: Comparison, score: str, published: Sequence[tuple[str, float]] = ()) -> Figure | None:
    """Every dictionary as a dot, one row per method and one level per data set, with the mean and its 95% interval.
    Values reported in papers are hollow marks below the line."""
    entries = [e for e in c.entries if math.isfinite(e.estimate(score).mean)]
    entries = sorted(entries, key=lambda e: -e.goodness(score))[:MOST_ROWS]
    if not entries:
        return None
    n = len(entries) + len(published)
    figure, (ax,) = canvas(5.6, 0.9 + 0.27 * n)
    look = marks([e.family.label for e in c.entries])
    for row, e in enumerate(entries):
        colour = look[e.family.label][0]
        for i, group in enumerate(e.groups[score]):
            at = row + 0.5 * ((i + 0.5) / len(e.groups[score]) - 0.5)
            ax.scatter(group, [at] * len(group), s=9, color=colour, alpha=0.55, lw=0)
        mean = e.estimate(score)
        if math.isfinite(mean.half):
            ax.plot([mean.low, mean.high], [row, row], color=colour, lw=1.4, alpha=0.8)
        ax.plot(mean.mean, row, color=colour, marker="|", ms=11, mew=2)
    for row, (_, value) in enumerate(published, start=len(entries)):
        ax.plot(value, row, color=FAINT, marker="D", ms=5, mfc="none")
    names = [_short(e, c) for e in entries] + [name for name, _ in published]
    ax.set_yticks(range(n), names, fontsize=8)
    if published:
        ax.axhline(len(entries) - 0.5, color=FAINT, lw=0.7, ls=(0, (4, 3)))
    ax.set_ylim(n - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel(score)
    return figure


def _short(e: Entry, c: Comparison) -> str:
    where = f"  {e.where}" if e.where and "," not in e.where else ""
    return f"{e.family.label}{where}" + (" (ceiling)" if e.family.first.is_ceiling(c.by) else "")


@styled
def draw_deciles(c: Comparison, stem: str, name: str) -> Figure | None:
    """A score by tenths of the features, from rare to frequent, with intervals. Random directions and ceilings are
    drawn dashed."""
    curves = [e for e in _followed(c) if all(math.isfinite(e.estimate(f"{stem}{i}").mean) for i in DECILES)]
    if not curves:
        return None
    figure, (ax,) = canvas(5.6, 4.0)
    look, labels = marks([e.family.label for e in c.entries]), list[Label]()
    paths: list[list[tuple[float, float]]] = []
    for k, e in enumerate(curves):
        estimates = [e.estimate(f"{stem}{i}") for i in DECILES]
        mean, half = (np.array([getattr(m, what) for m in estimates]) for what in ("mean", "half"))
        colour, marker = look[e.family.label]
        is_reference = e.family.first.kind in ("random",) or e.family.first.is_ceiling(c.by)
        ax.fill_between(DECILES, mean - np.nan_to_num(half), mean + np.nan_to_num(half), color=colour, alpha=0.15, lw=0)
        ax.plot(DECILES, mean, color=colour, marker=marker, ms=4, lw=1.2, ls=(0, (4, 3)) if is_reference else "-")
        paths.append([(float(i), float(m)) for i, m in zip(DECILES, mean, strict=True)])
        at = 1 + int((k + 0.5) / len(curves) * 9)
        labels.append((float(at), float(mean[at - 1]), e.family.label, colour))
    ax.set(xlabel="tenths of the features, from rare to frequent", ylabel=name)
    ax.set_xticks(list(DECILES))
    low = min(y for path in paths for _, y in path)
    ax.set_ylim(min(0.0, low), 1.03)
    place_labels(ax, labels, paths)
    return figure


def _followed(c: Comparison) -> list[Entry]:
    """The best entries, then random directions and ceilings."""
    references = [e for e in c.entries if e.family.first.kind == "random" or e.family.first.is_ceiling(c.by)]
    best = [e for e in c.fair if e not in references][:MOST_CURVES]
    return [*best, *references[:3]]


@styled
def draw_cost(c: Comparison, score: str) -> Figure | None:
    """A score against the number of training samples, with intervals: up and to the left is better."""
    shown = [e for e in c.fair if e.estimate("train_samples").mean > 0 and math.isfinite(e.estimate(score).mean)]
    if len(shown) < 3:
        return None
    figure, (ax,) = canvas(5.6, 3.8)
    look, labels = marks([e.family.label for e in c.entries]), list[Label]()
    for e in shown:
        x, y = e.estimate("train_samples").mean, e.estimate(score)
        colour, marker = look[e.family.label]
        ax.errorbar(x, y.mean, None if math.isnan(y.half) else y.half, color=colour, marker=marker, ms=5, elinewidth=1)
        labels.append((x, y.mean, e.family.label, colour))
    ceilings = [e for e in c.entries if e.family.first.is_ceiling(c.by) and math.isfinite(e.estimate(score).mean)]
    for e in ceilings[:1]:
        ax.axhline(e.estimate(score).mean, color=INK, lw=0.8, ls=(0, (4, 3)), zorder=0)
    ax.set(xscale="log", xlabel="training samples", ylabel=score)
    plain_log(ax.xaxis)
    ax.margins(x=0.12)
    place_labels(ax, labels, [[label[:2]] for label in labels])
    return figure
