"""The figure of a score against sparsity: a pure function from settings to a figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.report.settings_table import Setting
from pipelines.report.style import FAINT, Label, canvas, marks, place_labels, plain_log, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEAST_L0 = 0.05
"""Smallest L0 in the figure: below it, all but a few samples have no active latent."""


@styled
def draw_against_l0(settings: Sequence[Setting], y: str, name: str, ceiling: float | None = None) -> Figure | None:
    """A score against L0: one line per method and width along its sweep, one point per baseline.

    Values above `ceiling` are drawn at the upper edge, labelled with their value. Settings below `LEAST_L0` are left
    out, because they would take most of a logarithmic axis.
    """
    shown = [s for s in settings if s.mean("l0") >= LEAST_L0 and math.isfinite(s.mean(y))]
    if len(shown) < 2:
        return None
    figure, (ax,) = canvas(5.6, 4.0)
    look = marks([s.label for s in shown])
    several = {label for label in look if len({s.n_latents for s in shown if s.label == label}) > 1}
    crowded, named = len({(s.label, s.n_latents) for s in shown if s.penalty}) > 6, set[str]()
    labels: list[Label] = []
    top = math.inf if ceiling is None else ceiling
    for line in _lines(shown):
        colour, marker = look[line[0].label]
        x, mean = (np.array([s.mean(score) for s in line]) for score in ("l0", y))
        half = np.array([np.nan_to_num(s.scores[y].half) for s in line])
        half[mean > top] = np.nan
        ax.errorbar(x, mean.clip(max=top), half, fmt="none", ecolor=colour, elinewidth=1, alpha=0.6)
        ax.plot(x, mean.clip(max=top), color=colour, marker=marker, ms=9 if marker == "*" else 5, lw=1.3, clip_on=False)
        # Scores are labelled at their maximum. Error curves meet at both ends, so they are labelled in the middle.
        end = int(mean.argmax()) if ceiling is None else len(line) // 2
        text = f"{line[0].label} {line[0].n_latents}" if line[0].label in several else line[0].label
        if crowded and line[0].label in named:
            text = str(line[0].n_latents)
        named |= {line[0].label} if line[0].penalty else set()
        labels.append((x[end], min(mean[end], top), text if mean[end] <= top else f"{text} ↑ {mean[end]:.3g}", colour))
    ax.set(xscale="log", xlabel="l0, active latents per sample", ylabel=name)
    plain_log(ax.xaxis)
    if ceiling is not None:
        ax.set_ylim(0, ceiling * 1.04)
    ax.margins(x=0.12)
    _true_l0(ax, shown)
    place_labels(ax, labels, [[(s.mean("l0"), min(s.mean(y), top)) for s in line] for line in _lines(shown)])
    return figure


def _lines(settings: Sequence[Setting]) -> list[list[Setting]]:
    """Groups settings into lines: the sweep of one method at one width; each baseline alone."""
    lines: dict[Any, list[Setting]] = {}
    for s in settings:
        key = (s.label, s.n_latents, s.others, None if s.penalty else "alone")
        lines.setdefault(key, []).append(s)
    return [sorted(line, key=lambda s: s.penalty[0][1] if s.penalty else 0) for line in lines.values()]


def _true_l0(ax: Axes, settings: Sequence[Setting]) -> None:
    true = next((v for s in settings if math.isfinite(v := s.mean("true_l0"))), None)
    if true:
        ax.axvline(true, color=FAINT, lw=1, ls=(0, (4, 3)), zorder=0)
        ax.text(true, 1.015, "true l0", color=FAINT, ha="center", va="bottom", transform=ax.get_xaxis_transform())
