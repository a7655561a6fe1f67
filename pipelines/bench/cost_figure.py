"""The figure of scores against costs, with the methods that no other beats at a lower cost."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipelines.bench.comparison import Comparison
from pipelines.bench.families import Entry
from pipelines.bench.pareto import COSTS, CostedEntry, compared_scores, costed_entries
from pipelines.bench.tables import count_text, interval_ends
from pipelines.report.style import FAINT, INK, Label, canvas, label_ends, marks, place_labels, plain_log, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CONTROLS = frozenset({"random", "neurons", "data_points"})
"""Kinds of methods that fit nothing, drawn in grey."""
_FRONT = "#b2182b"
_LEAST = 2
"""Fewest methods with a score and a cost that are worth a panel."""
_APART, _SPREAD = 0.012, 0.1
"""Distance between marks of the same cost, and the room for all of them, as shares of the axis."""


@styled
def draw_score_against_cost(c: Comparison) -> Figure | None:
    """Scores (rows) against costs (columns): a numbered mark with its interval for each method, controls in grey, the
    front as a line, and ceilings dashed. The numbers are the lines of the table; None without costs."""
    panels = {(score, cost): costed_entries(c, score, cost) for score in compared_scores(c) for cost in COSTS}
    filled = [pair for pair, points in panels.items() if len(points) >= _LEAST]
    if not filled:
        return None
    scores, costs = (list(dict.fromkeys(names)) for names in zip(*filled, strict=True))
    ceilings = {score: [e for e in c.entries if _is_ceiling(e, score)] for score in scores}
    drawn = {one.entry for score in scores for cost in costs for one in panels[score, cost]}
    drawn |= {e for of_score in ceilings.values() for e in of_score}
    number = {e: i for i, e in enumerate(c.entries, start=1) if e in drawn}
    look = _look(list(number))
    figure, axes = canvas(11.4, 3.1 * len(scores) + 1.0, len(costs), len(scores))
    _legend(figure, number, look, {e for of in ceilings.values() for e in of})
    places = ((score, cost) for score in scores for cost in costs)
    for ax, (score, cost) in zip(axes, places, strict=True):
        ax.set(xscale="log", xlabel=COSTS[cost], ylabel=score)
        _draw_panel(ax, panels[score, cost], score, ceilings[score], number, look)
        if cost == "train_flops":
            ax.xaxis.set_major_formatter(lambda value, _: count_text(value))
    return figure


def _is_ceiling(e: Entry, score: str) -> bool:
    return e.family.first.is_ceiling(score) and math.isfinite(e.estimate(score).mean)


def _look(entries: Sequence[Entry]) -> Mapping[Entry, tuple[str, str]]:
    """The colour and marker of each method; controls are grey."""
    every = marks([e.family.label for e in entries])
    return {
        e: (FAINT if e.family.first.kind in _CONTROLS else every[e.family.label][0], every[e.family.label][1])
        for e in entries
    }


def _legend(
    figure: Figure, number: Mapping[Entry, int], look: Mapping[Entry, tuple[str, str]], ceilings: set[Entry]
) -> None:
    """The names of the numbers, and of the lines."""
    from matplotlib.lines import Line2D

    handles: list[Any] = []
    for e, i in number.items():
        colour, marker = look[e]
        line: Any = {"color": INK, "ls": (0, (4, 3)), "lw": 0.8} if e in ceilings else {"color": colour, "ls": ""}
        name = f"{i}  {e.family.label}" + (" (ceiling)" if e in ceilings else "")
        handles.append(Line2D([], [], marker="" if e in ceilings else marker, ms=5, label=name, **line))
    handles.append(Line2D([], [], color=_FRONT, lw=1.2, label="no method is better for less"))
    width = 4.8 * max(len(handle.get_label()) for handle in handles) + 40  # of a column, in points
    columns = max(1, min(4, int(72 * figure.get_figwidth() // width)))
    figure.legend(handles=handles, loc="outside lower left", ncols=columns, fontsize=8, handlelength=1.8)


def _draw_panel(
    ax: Axes,
    points: Sequence[CostedEntry],
    score: str,
    ceilings: Sequence[Entry],
    number: Mapping[Entry, int],
    look: Mapping[Entry, tuple[str, str]],
) -> None:
    right = _limits(ax, points)
    labels, bars = list[Label](), list[list[tuple[float, float]]]()
    for one, x in zip(points, _places(ax, points), strict=True):
        (colour, marker), mean = look[one.entry], one.score.mean
        low, high = interval_ends(one.score, score)
        if math.isfinite(low):
            ax.plot([x, x], [low, high], color=colour, lw=1, alpha=0.8)
            bars.append([(x, low), (x, high)])
        ax.plot(x, mean, color=colour, marker=marker, ms=5, ls="")
        labels.append((x, mean, str(number[one.entry]), colour))
    path = _front_path(points, right)
    if path:
        ax.plot(*zip(*path, strict=True), color=_FRONT, lw=1.2, zorder=1)
    at: dict[str, list[Entry]] = {}
    for e in ceilings:
        at.setdefault(f"{e.estimate(score).mean:.3f}", []).append(e)
    for same in at.values():
        ax.axhline(same[0].estimate(score).mean, color=INK, lw=0.8, ls=(0, (4, 3)), zorder=0)
    if points and all(one.score.mean >= 0 for one in points):
        ax.set_ylim(bottom=max(ax.get_ylim()[0], -0.03))  # the intervals of two data sets reach far below
    plain_log(ax.xaxis)
    names = {", ".join(str(number[e]) for e in same): same[0].estimate(score).mean for same in at.values()}
    dashed = [[(ax.get_xlim()[0], mean), (right, mean)] for mean in names.values()]
    place_labels(ax, labels, [path, *bars, *dashed, *([label[:2]] for label in labels)])
    label_ends(ax, [(right, mean, text, INK) for text, mean in names.items()])


def _limits(ax: Axes, points: Sequence[CostedEntry]) -> float:
    """Sets the range of the costs with a margin, and returns its upper end."""
    low, high = min((p.cost for p in points), default=1.0), max((p.cost for p in points), default=1.0)
    margin = max((high / low) ** 0.08, 1.5)
    ax.set_xlim(low / margin, high * margin)
    return high * margin


def _places(ax: Axes, points: Sequence[CostedEntry]) -> list[float]:
    """Where the marks stand: at their cost, those of the same cost side by side with the best in the middle."""
    same = Counter(one.cost for one in points)
    low, high = ax.get_xlim()
    seen, places = Counter[float](), list[float]()
    for one in points:
        i = seen[one.cost]
        seen[one.cost] += 1
        step = min(_APART, _SPREAD / same[one.cost]) * ((i + 1) // 2) * (1 if i % 2 else -1)
        places.append(one.cost * (high / low) ** step)
    return places


def _front_path(points: Sequence[CostedEntry], right: float) -> list[tuple[float, float]]:
    """The best mean for at most each cost, as the corners of a staircase that ends at `right`."""
    path: list[tuple[float, float]] = []
    for one in points:
        if one.on_front:
            path += [(one.cost, path[-1][1])] if path else []
            path.append((one.cost, one.score.mean))
    return [*path, (right, path[-1][1])] if path else []
