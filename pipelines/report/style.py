"""Style of the figures: fonts, one colour and marker per method, and placement of labels."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]
Label = tuple[float, float, str, str]
"""x and y in data coordinates, text, and colour."""
Box = tuple[float, float, float, float]
"""Left, bottom, right and top in pixels."""
P = ParamSpec("P")
R = TypeVar("R")

INK, FAINT, RULE = "#1c1f23", "#6b7280", "#d9dce1"
"""Colours of text, notes and grid lines; on a page they are replaced by the page's colours."""

STYLE: dict[str, Any] = {
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.labelsize": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.linewidth": 0.7,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "lines.linewidth": 1.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "sae",
}

# Okabe and Ito's colours, which colour-blind readers can distinguish; controls are grey, the ceiling is black.
KNOWN = {
    "relu": ("#0072B2", "o"),
    "oracle": (INK, "*"),
    "ica": ("#D55E00", "s"),
    "pca": ("#CC79A7", "^"),
    "data_points": ("#E69F00", "D"),
    "random": ("#8a8f98", "X"),
    "neurons": ("#5b616b", "P"),
}
OTHERS = [
    ("#009E73", "v"), ("#56B4E9", "o"), ("#a6761d", "<"), ("#6a51a3", ">"), ("#b2182b", "h"), ("#4d9221", "p"),
    ("#e7298a", "d"), ("#1b4f72", "H"), ("#9a8c00", "8"), ("#8c564b", "s"), ("#17a2a2", "D"), ("#c49bdb", "^"),
]  # fmt: skip


def marks(labels: Sequence[str]) -> dict[str, tuple[str, str]]:
    """The colour and marker of each method, the same in every figure and every run of the same methods."""
    new = sorted(set(labels) - set(KNOWN))
    n = len(OTHERS)
    # After each round of twelve, markers are shifted by one, so that no two methods share both colour and marker.
    return KNOWN | {label: (OTHERS[i % n][0], OTHERS[(i + i // n) % n][1]) for i, label in enumerate(new)}


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Decorator: draws in the report's style, independently of the user's matplotlib settings."""

    @wraps(draw)
    def inner(*args: P.args, **kwargs: P.kwargs) -> R:
        import matplotlib

        with matplotlib.rc_context(cast(Any, {**matplotlib.rcParamsDefault, "backend": "agg", **STYLE})):
            return draw(*args, **kwargs)

    return inner


@styled
def to_bytes(figure: Figure, form: str) -> bytes:
    """The figure as ``svg`` or ``png``, without dates: equal figures give equal bytes."""
    out = io.BytesIO()
    undated = {"svg": {"Date": None, "Creator": None, "Format": None, "Type": None}, "png": {"Software": None}}
    paper = "white" if form == "png" else "none"
    figure.savefig(out, format=form, dpi=200, metadata=undated[form], facecolor=paper)
    return out.getvalue()


def canvas(width: float, height: float, columns: int = 1, rows: int = 1) -> tuple[Figure, list[Axes]]:
    """An empty figure of a size in inches, and its axes row by row."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    return figure, list(axes.flat)


def plain_log(axis: Any) -> None:
    """Labels the ticks of a log axis with a few plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    subs = (1.0, 2.0, 5.0) if high / max(low, 1e-12) < 200 else (1.0,)
    axis.set_major_locator(LogLocator(subs=subs, numticks=12))
    axis.set_major_formatter(FuncFormatter(_plain))
    axis.set_minor_formatter(NullFormatter())


def _plain(value: float, _: float) -> str:
    return f"{value:g}" if 1e-4 <= value < 1e6 else f"{value:.0e}"


def place_labels(ax: Axes, labels: Sequence[Label], paths: Sequence[Sequence[tuple[float, float]]]) -> None:
    """Writes each label next to its point, where it covers no other label, path or point. Labels of crowded points are
    written in a column and connected by lines."""
    cast("Figure", ax.figure).draw_without_rendering()
    scale = ax.figure.dpi / 72
    taken: list[Box] = []
    for path in paths:
        dots = ax.transData.transform(np.array(path).reshape(-1, 2))
        taken += [_around(x, y, 4 * scale) for x, y in dots]
        for start, end in pairwise(dots):
            taken += [_around(x, y, scale) for x, y in np.linspace(start, end, 40)]
    where = {label: ax.transData.transform(label[:2]) / scale for label in labels}
    crowded = [one for one in labels if sum(_are_near(where[one], at) for at in where.values()) > CROWD]
    for label in (one for one in labels if one not in crowded):
        boxes = [_box(ax, label, dx, dy) for dx, dy in _NEAR]
        costs = _costs(ax, boxes, np.array(taken))
        i = int(costs.argmin())
        if costs[i] > 0:
            crowded.append(label)
        else:
            taken.append(boxes[i])
            _write(ax, label, *_NEAR[i])
    for column in _columns({one: where[one] for one in crowded}):
        _write_column(ax, column, taken)


_NEAR = [
    *((7, 0), (0, 11), (-7, 0), (0, -11), (7, 11), (-7, 11), (7, -11), (-7, -11)),
    *((0, 22), (0, -22), (7, 22), (-7, 22), (7, -22), (-7, -22)),
]
LINE_HEIGHT = 12
"""Distance between the labels of a column, in points."""
CROWD = 3
"""Number of neighbouring points above which their labels are written in a column."""


def _are_near(one: Array, other: Array) -> bool:
    return bool(abs(one[0] - other[0]) < 30 and abs(one[1] - other[1]) < 40)


def _columns(where: Mapping[Label, Array]) -> list[list[Label]]:
    """Groups of labels with neighbouring points, each from the lowest to the highest."""
    columns: list[list[Label]] = []
    for label in sorted(where, key=lambda one: tuple(where[one][::-1])):
        near = next((column for column in columns if _are_near(where[column[-1]], where[label])), None)
        if near is None:
            columns.append([label])
        else:
            near.append(label)
    return columns


def _write_column(ax: Axes, column: Sequence[Label], taken: list[Box]) -> None:
    """Writes labels in a column, at a place that covers little and is not far from the points."""
    best: tuple[float, list[tuple[float, float]]] | None = None
    scale, others = ax.figure.dpi / 72, np.array(taken)
    points = [ax.transData.transform(label[:2]) / scale for label in column]
    middle = sum(y for _, y in points) / len(points)
    for dx in (24, -24, 40, -40, 60, -60, 80, -80):
        edge = dx + (max if dx > 0 else min)(x for x, _ in points)
        for shift in range(-14, 15):
            lowest = middle + LINE_HEIGHT * (shift - (len(column) - 1) / 2)
            moves = [(edge - x, lowest + i * LINE_HEIGHT - y) for i, (x, y) in enumerate(points)]
            boxes = [_box(ax, label, *move) for label, move in zip(column, moves, strict=True)]
            cost = float(_costs(ax, boxes, others).sum()) + abs(dx) / 10 + abs(shift)
            if best is None or cost < best[0]:
                best = cost, moves
    assert best is not None
    for label, move in zip(column, best[1], strict=True):
        taken.append(_box(ax, label, *move))
        _write(ax, label, *move, line=True)


def _box(ax: Axes, label: Label, dx: float, dy: float) -> Box:
    """The box in pixels of a label that is written `dx` and `dy` points from its place."""
    scale = ax.figure.dpi / 72
    x, y = ax.transData.transform(label[:2]) + np.array([dx, dy]) * scale
    width, height = (len(label[2]) * 5.0 + 4) * scale, 10 * scale
    left = x if dx > 0 else x - width if dx < 0 else x - width / 2
    return left, y - height / 2, left + width, y + height / 2


def _write(ax: Axes, label: Label, dx: float, dy: float, line: bool = False) -> None:
    x, y, text, colour = label
    side, end = ("left", 0.0) if dx > 0 else ("right", 1.0) if dx < 0 else ("center", 0.5)
    look: Any = {"arrowstyle": "-", "color": colour, "lw": 0.6, "alpha": 0.7, "shrinkA": 1, "shrinkB": 3}
    ax.annotate(
        text,
        (x, y),
        (dx, dy),
        textcoords="offset points",
        ha=side,
        va="center",
        color=colour,
        fontsize=8,
        arrowprops={**look, "relpos": (end, 0.5)} if line else None,
    )


def _costs(ax: Axes, boxes: Sequence[Box], taken: Array) -> Array:
    """The area of `taken` boxes that each box covers, plus a larger penalty for leaving the axes."""
    corners, frame = np.array(boxes)[:, None], ax.get_window_extent()
    low, high = corners[..., :2], corners[..., 2:]
    covered = (np.minimum(high, taken[:, 2:]) - np.maximum(low, taken[:, :2])).clip(0).prod(-1).sum(-1)
    over = np.maximum(frame.min - low, high - frame.max).clip(0).sum((-1, -2))
    return covered + 40 * over


def _around(x: float, y: float, half: float) -> Box:
    return x - half, y - half, x + half, y + half


def thousands() -> Any:
    """A tick formatter with unit prefixes: 20k."""
    from matplotlib.ticker import EngFormatter

    return EngFormatter(sep="")


def label_ends(ax: Axes, ends: Sequence[Label], gap: float = 10) -> None:
    """Writes labels to the right of the ends of lines, at least `gap` points apart."""
    cast("Figure", ax.figure).draw_without_rendering()
    scale = ax.figure.dpi / 72
    below = -math.inf
    for x, y, text, colour in sorted(ends, key=lambda end: end[1]):
        here = ax.transData.transform((x, y))[1] / scale
        there = max(here, below + gap)
        below = there
        ax.annotate(text, (x, y), (4, there - here), textcoords="offset points", va="center", color=colour, fontsize=8)
