"""The figures of a report: pure functions from data to a figure; None if there is nothing to show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from pipelines.report.settings_table import Setting
from pipelines.report.style import (
    FAINT,
    RULE,
    Array,
    Label,
    canvas,
    label_ends,
    marks,
    place_labels,
    plain_log,
    styled,
    thousands,
)
from sae.numerics.statistics import bootstrap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@styled
def heat_map(settings: Sequence[Setting]) -> Figure | None:
    """`mmcs_truth` and `mmcs_latents` over penalty and width, one row of panels per trained method."""
    trained = [s for s in settings if not s.is_baseline and s.penalty and math.isfinite(s.mean("mmcs_truth"))]
    labels = list(dict.fromkeys(s.label for s in trained))
    if not any(_is_grid([s for s in trained if s.label == label]) for label in labels):
        return None
    n_cells = max(len({s.penalty[0][1] for s in trained}), 4), max(len({s.n_latents for s in trained}), 2)
    height = (0.9 + 0.36 * n_cells[1]) * len(labels) + 0.2
    figure, axes = canvas(min(11.4, 2 * (1.0 + 0.52 * n_cells[0]) + 0.8), height, 2, len(labels))
    image = None
    for i, label in enumerate(labels):
        of_method = [s for s in trained if s.label == label]
        for ax, score in zip(axes[2 * i : 2 * i + 2], ("mmcs_truth", "mmcs_latents"), strict=True):
            image = _heat(ax, of_method, score)
            ax.set_title(f"{label}: {score}" if len(labels) > 1 else score)
    bar = figure.colorbar(cast(Any, image), ax=axes, shrink=0.85, aspect=18, pad=0.015)
    cast(Any, bar.outline).set_visible(False)
    return figure


def _is_grid(settings: Sequence[Setting]) -> bool:
    return len({s.penalty[0] for s in settings}) > 1 or len({s.n_latents for s in settings}) > 1


def _heat(ax: Axes, settings: Sequence[Setting], score: str) -> Any:
    """One panel; the best cell has a frame."""
    from matplotlib.patches import Rectangle

    penalties = sorted({s.penalty[0][1] for s in settings})
    widths = sorted({s.n_latents or 0 for s in settings}, reverse=True)
    grid = np.full((len(widths), len(penalties)), np.nan)
    for s in settings:
        grid[widths.index(s.n_latents or 0), penalties.index(s.penalty[0][1])] = s.mean(score)
    image = ax.imshow(grid, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    ax.set_xticks(range(len(penalties)), [f"{p:.3g}" for p in penalties], rotation=0 if len(penalties) < 9 else 60)
    ax.set_yticks(range(len(widths)), [str(w) for w in widths])
    ax.set(xlabel=settings[0].penalty[0][0], ylabel="latents")
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    for (row, column), value in np.ndenumerate(grid):
        if math.isfinite(value):
            ink = "#ffffff" if value < 0.55 else "#111111"
            ax.text(column, row, f"{value:.2f}".lstrip("0"), ha="center", va="center", color=ink, fontsize=7.5)
    row, column = np.unravel_index(int(np.nanargmax(grid)), grid.shape)
    ax.add_patch(Rectangle((column - 0.47, row - 0.46), 0.94, 0.92, fill=False, ec="#D55E00", lw=2))
    return image


@styled
def cosine_matrix(cosine: Array, matched: NDArray[np.int64], probability: Array) -> Figure | None:
    """Cosines of features (from frequent to rare) and latents, which are in the order of their matched features.

    `cosine` is ``[n_features, n_latents]`` over the represented features; `matched` is the latent matched to each
    feature, -1 for none. Of more than 600 features an evenly spaced subset is shown.
    """
    if not cosine.size:
        return None
    by_frequency = np.argsort(-probability, kind="stable")
    features = by_frequency[np.linspace(0, len(by_frequency) - 1, min(600, len(by_frequency))).round().astype(int)]
    partners = matched[features][matched[features] >= 0]
    # Latents without a feature come last, in the order of their largest cosine with any feature.
    rest = np.setdiff1d(np.arange(cosine.shape[1]), matched)
    rest = rest[np.argsort(-cosine[:, rest].max(0), kind="stable")][: max(1200 - len(partners), 0)]
    image = cosine[np.ix_(features, np.concatenate([partners, rest]))]
    figure, (ax,) = canvas(5.6, 4.0)
    shown = ax.imshow(image, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto", interpolation="nearest")
    if len(rest):
        ax.axvline(len(partners) - 0.5, color=FAINT, lw=0.8, ls=(0, (4, 3)))
        ax.text(len(partners), 1.015, "unmatched", color=FAINT, va="bottom", transform=ax.get_xaxis_transform())
    ax.set(xlabel="latents, in the order of their features", ylabel="features, from frequent to rare")
    ax.grid(False)
    bar = figure.colorbar(shown, ax=ax, shrink=0.7, aspect=22, pad=0.02, label="cosine")
    cast(Any, bar.outline).set_visible(False)
    return figure


@styled
def recovery(curves: Mapping[str, tuple[Array, Array]]) -> Figure | None:
    """Recovery of features against their frequency: label -> (probability, best cosine) of every feature.

    Curves are means over tenths of the features; the first one also shows single features and bootstrap intervals.
    If all features are equally frequent, they are sorted by their recovery instead.
    """
    # A log axis cannot show a feature that is never active.
    curves = {k: (p[p > 0], best[p > 0]) for k, (p, best) in curves.items() if (p > 0).any()}
    if not curves:
        return None
    figure, (ax,) = canvas(5.6, 4.0)
    look, labels = marks([_method(k) for k in curves]), list[Label]()
    p = np.concatenate([np.unique(probability) for probability, _ in curves.values()])
    varied = p.max() / p.min() > 1.5
    paths: list[list[tuple[float, float]]] = []
    for i, (label, (probability, best)) in enumerate(curves.items()):
        colour, marker = look[_method(label)]
        if varied:
            x, y = _tenths(ax, probability, best, colour, marker, first=i == 0)
        else:
            x, y = (np.arange(len(best)) + 0.5) / len(best), np.sort(best)[::-1]
            ax.plot(x, y, color=colour, lw=2 if i == 0 else 1.3)
        paths.append(list(zip(x.tolist(), y.tolist(), strict=True)))
        at = int((i + 0.5) / len(curves) * len(x))  # spread along the curves, so that labels do not pile up
        labels.append((x[at], y[at], label, colour))
    for level in (0.8, 0.9):
        ax.axhline(level, color=FAINT, lw=0.7, ls=(0, (4, 3)), zorder=0)
    ax.set(ylabel="cosine of the best latent", ylim=(min(0.0, *(y for path in paths for _, y in path)), 1.03))
    ax.set_xlabel("share of samples in which the feature is active" if varied else "share of features, best first")
    if varied:
        ax.set_xscale("log")
        plain_log(ax.xaxis)
    place_labels(ax, labels, paths)
    return figure


def _method(label: str) -> str:
    """The method at the head of a setting's title."""
    return label.split(",")[0]


def _tenths(ax: Axes, p: Array, best: Array, colour: str, marker: str, first: bool) -> tuple[Array, Array]:
    """Draws means over tenths of the features, from rare to frequent, at the geometric mean of their frequencies."""
    parts = [part for part in np.array_split(np.argsort(p, kind="stable"), 10) if len(part)]
    x = np.array([np.exp(np.log(p[part]).mean()) for part in parts])
    y = np.array([best[part].mean() for part in parts])
    if first:
        low, high = np.array([bootstrap(best[part], seed=i) for i, part in enumerate(parts)]).T
        ax.scatter(p, best, s=7, color=colour, alpha=0.3, linewidths=0)
        ax.fill_between(x, low, high, color=colour, alpha=0.2, lw=0)
    ax.plot(x, y, color=colour, marker=marker, ms=4, lw=2 if first else 1.3)
    return x, y


@styled
def densities(latents: Mapping[str, Array], features: Array | None) -> Figure | None:
    """Histograms of firing frequencies on a log axis; those of the true features are in grey if they are known."""
    latents = {k: v for k, v in latents.items() if len(v)}
    everything = [*latents.values(), *([] if features is None else [features])]
    positive = np.concatenate([v[v > 0] for v in everything]) if latents else np.zeros(0)
    if not len(positive):
        return None
    figure, (ax,) = canvas(5.6, 3.6)
    low, high = math.floor(math.log10(positive.min()) * 4) / 4, math.ceil(math.log10(positive.max()) * 4 + 0.01) / 4
    bins: Any = 10 ** np.arange(low, max(high, low + 0.5) + 0.05, 0.1)
    look = marks([_method(k) for k in latents])
    if features is not None:
        share = np.full(len(features), 1 / len(features))
        ax.hist(features, bins, weights=share, color=RULE, label="true features")
    for label, density in latents.items():
        dead = float((density == 0).mean())
        text = label + (f" ({dead:.0%} dead)" if dead >= 0.005 else "")
        share = np.full(len(density), 1 / len(density))
        ax.hist(density, bins, weights=share, histtype="step", color=look[_method(label)][0], lw=1.5, label=text)
    ax.set(xscale="log", xlabel="share of samples in which it fires", ylabel="share of latents")
    plain_log(ax.xaxis)
    figure.legend(loc="outside upper left", ncols=2, fontsize=8, handlelength=1.2, columnspacing=1.2)
    return figure


@styled
def loss_curves(logs: Mapping[float, Sequence[Sequence[Mapping[str, float]]]], penalty: str) -> Figure | None:
    """Loss and L0 during training: penalty -> one log per seed, each a sequence of records."""
    logs = {k: long for k, runs in sorted(logs.items()) if (long := [run for run in runs if len(run) > 1])}
    panels = [name for name in ("loss", "l0") if any(name in r for runs in logs.values() for run in runs for r in run)]
    if not panels:
        return None
    from matplotlib import colormaps

    figure, axes = canvas(5.6 * len(panels), 3.4, len(panels))
    for ax, name in zip(axes, panels, strict=True):
        ends: list[Label] = []
        for i, (value, runs) in enumerate(logs.items()):
            shade = 0.1 + 0.75 * i / max(len(logs) - 1, 1)
            red, green, blue, _ = colormaps["plasma"](shade)
            colour = f"#{int(255 * red):02x}{int(255 * green):02x}{int(255 * blue):02x}"
            last = None
            for run in runs:
                pairs = [(r["samples"], r[name]) for r in run if name in r and r[name] > 0]
                ax.plot(*np.array(pairs).reshape(-1, 2).T, color=colour, lw=1.1, alpha=0.8)
                last = pairs[-1] if pairs else None
            if last is not None:
                ends.append((*last, f"{penalty} = {value:.3g}" if penalty else "", colour))
        ax.set(yscale="log", xlabel="training samples", title=name)
        ax.set_xlim(left=0)
        ax.xaxis.set_major_formatter(thousands())
        plain_log(ax.yaxis)
        label_ends(ax, ends)
    return figure


@styled
def bars(
    settings: Sequence[Setting], scores: Mapping[str, str], name: str, chance: float | None = None
) -> Figure | None:
    """Several scores: one row per score and one mark per setting, with 95% intervals; a grey stroke where the score is
    the same for all settings."""
    rows = {score: text for score, text in scores.items() if any(math.isfinite(s.mean(score)) for s in settings)}
    if not rows:
        return None
    figure, (ax,) = canvas(5.6, 0.9 + 0.36 * len(rows) + 0.18 * ((len(settings) + 1) // 2))
    look = marks([s.label for s in settings])
    shared = {n: settings[0].mean(n) for n in rows if len(settings) > 1 and _are_equal([s.mean(n) for s in settings])}
    ax.scatter(list(shared.values()), [list(rows).index(n) for n in shared], color=FAINT, marker="|", s=90, lw=2)
    for i, s in enumerate(settings):
        place = [r + 0.6 * ((i + 0.5) / len(settings) - 0.5) for r in range(len(rows))]
        mean = [math.nan if score in shared else s.mean(score) for score in rows]
        half = [np.nan_to_num(s.scores[score].half) if score in s.scores else 0 for score in rows]
        colour, marker = look[s.label]
        ax.errorbar(mean, place, xerr=half, fmt=marker, ms=5, color=colour, elinewidth=1, label=s.title)
    ax.set_yticks(range(len(rows)), list(rows.values()))
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel(name)
    if chance is not None:
        ax.axvline(chance, color=FAINT, lw=1, ls=(0, (4, 3)), zorder=0)
    figure.legend(loc="outside upper left", ncols=2, fontsize=8, handlelength=1.2)
    return figure


def _are_equal(values: Sequence[float]) -> bool:
    """Whether values are equal up to rounding: means over different numbers of seeds differ in their last bit."""
    return all(math.isclose(value, values[0], rel_tol=1e-12) for value in values)
