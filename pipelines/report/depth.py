"""Scores over the depth of a model: sources of a run that differ in their hook points only, side by side."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pipelines.report.numbers import UNDEFINED, number, with_interval
from pipelines.report.picture import Picture, ShownFigure
from pipelines.report.settings_table import Setting
from pipelines.report.style import Label, canvas, marks, place_labels, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DEPTH_SCORES = ("ce_recovered_mean", "fvu", "l0")
"""The scores that are shown over depth."""
_WITHIN_BLOCK = (
    ("hook_resid_pre", 0.0),
    ("attn", 0.3),
    ("hook_resid_mid", 0.5),
    ("mlp", 0.8),
    ("hook_resid_post", 1.0),
)
"""Where in a block a hook point is, by a part of its name; elsewhere half-way."""


@dataclass(frozen=True)
class Hooks:
    """The sources of one text and model at several hook points."""

    hook: Mapping[str, str]
    """The hook point of each source by the name of the source, in the order of the forward pass."""

    def depth(self, source: str) -> float:
        """How many blocks come before the hook point of a source, with the part of its own that does."""
        return depth_of(self.hook[source])


class DepthSection(NamedTuple):
    """The part of a page that compares hook points."""

    sentence: str
    """The best score at each hook point."""
    rows: Sequence[DepthRow]
    """The table."""
    figures: Sequence[ShownFigure]
    """The figure, if there is one."""


class DepthRow(NamedTuple):
    """One dictionary setting at one hook point."""

    title: str
    """The setting, without its source."""
    hook: str
    """The hook point."""
    cells: Sequence[str]
    """The means of :data:`DEPTH_SCORES`, with half the width of their intervals."""
    is_baseline: bool
    """Whether it is a baseline."""


def depth_of(hook: str) -> float:
    """How many blocks of a model come before a hook point; NaN where its name does not say."""
    block = re.match(r"blocks\.(\d+)\.(.+)", hook)
    if block is None:
        return math.nan
    return int(block[1]) + next((part for name, part in _WITHIN_BLOCK if name in block[2]), 0.5)


def hooks_of(tables: Mapping[str, Mapping[str, Any]]) -> list[Hooks]:
    """The groups of two or more sources that differ in their hook points only, from the ``source`` table of each."""
    groups: dict[str, dict[str, str]] = {}
    for source, table in tables.items():
        if math.isfinite(depth_of(str(table.get("hook", "")))):
            rest = {name: value for name, value in table.items() if name not in ("hook", "target")}
            groups.setdefault(json.dumps(rest, sort_keys=True), {})[source] = str(table["hook"])
    ordered = (dict(sorted(group.items(), key=lambda pair: depth_of(pair[1]))) for group in groups.values())
    return [Hooks(group) for group in ordered if len(set(group.values())) > 1]


def depth_rows(hooks: Hooks, settings: Sequence[Setting]) -> list[DepthRow]:
    """Every setting at every hook point, in the order of the forward pass."""
    return [
        DepthRow(title, hooks.hook[s.source], [_cell(s, name) for name in DEPTH_SCORES], s.is_baseline)
        for title, line in _lines(hooks, settings).items()
        for s in line
    ]


def best_sentence(hooks: Hooks, settings: Sequence[Setting], score: str) -> str:
    """The best score of a trained dictionary at each hook point, in one sentence; empty where there is none."""
    best: dict[str, float] = {}
    for source, hook in hooks.hook.items():
        mine = [s for s in settings if s.source == source and not s.is_baseline and math.isfinite(s.mean(score))]
        if mine:
            best[hook] = max(mine, key=lambda s: s.goodness(score)).mean(score)
    if len(best) < 2:
        return ""
    return f"Best {score} at each hook point: {', '.join(f'{number(v)} at {hook}' for hook, v in best.items())}."


def depth_picture(hooks: Hooks, settings: Sequence[Setting], group: int) -> Picture | None:
    """The scores over depth as a figure; None where no score is there at two hook points."""
    figure = _draw(hooks, settings)
    caption = (
        "One line for each setting of a method, with 95% intervals over seeds. With 8 blocks before it, a hook "
        "point is the residual stream after block 7, which is that before block 8. A number behind a name is the l1 or "
        "the target L0 of the setting, one in brackets its width. An fvu above 1 is not shown."
    )
    return None if figure is None else Picture(f"depth-{group}", "Over the depth of the model", caption, figure)


def _lines(hooks: Hooks, settings: Sequence[Setting]) -> dict[str, list[Setting]]:
    """The settings by what they have in common over hook points, those of each in the order of the forward pass."""
    mine = [s for s in settings if s.source in hooks.hook]
    titles = dict.fromkeys(s.title for s in mine)
    order = list(hooks.hook)
    return {t: sorted((s for s in mine if s.title == t), key=lambda s: order.index(s.source)) for t in titles}


def _cell(s: Setting, name: str) -> str:
    estimate = s.scores.get(name)
    return UNDEFINED if estimate is None or not estimate.n else with_interval(estimate)


@styled
def _draw(hooks: Hooks, settings: Sequence[Setting]) -> Figure | None:
    lines = _lines(hooks, settings)
    names = [n for n in DEPTH_SCORES if any(_defined(line, n) > 1 for line in lines.values())]
    if not names:
        return None
    figure, axes = canvas(3.6 * len(names), 3.2, len(names))
    look = marks([line[0].label for line in lines.values()])
    for ax, name in zip(axes, names, strict=True):
        labels: list[Label] = []
        paths: list[list[tuple[float, float]]] = []
        for line in lines.values():
            shown = [s for s in line if math.isfinite(s.mean(name)) and not s.is_ceiling(name)]
            shown = [s for s in shown if name != "fvu" or s.mean(name) <= 1]
            if not shown:
                continue
            colour, marker = look[shown[0].label]
            x, y = np.array([hooks.depth(s.source) for s in shown]), np.array([s.mean(name) for s in shown])
            half = np.array([np.nan_to_num(s.scores[name].half) for s in shown])
            ax.errorbar(x, y, half, color=colour, marker=marker, ms=5, lw=1.3, clip_on=False)
            paths.append(list(zip(x.tolist(), y.tolist(), strict=True)))
            labels.append((x[-1], y[-1], _short(shown[0], lines.values()), colour))
        ax.set(xlabel="blocks before the hook point", ylabel=name)
        ax.margins(x=0.25)
        place_labels(ax, labels, paths)
    return figure


def _short(s: Setting, lines: Iterable[Sequence[Setting]]) -> str:
    """The label of a setting, with what tells it from other lines of that label: its penalty, its width."""
    same = [line[0] for line in lines if line[0].label == s.label]
    if len(same) == 1:
        return s.label
    width = [f"({s.n_latents})"] if len({each.n_latents for each in same}) > 1 else []
    return " ".join([s.label, *(f"{value:g}" for _, value in s.penalty), *width])


def _defined(line: Sequence[Setting], name: str) -> int:
    return sum(math.isfinite(s.mean(name)) for s in line)
