"""How the figures of a report look: one style, one colour for each method, labels beside what they name."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
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
"""Where, in data coordinates; the text; its colour."""
Box = tuple[float, float, float, float]
"""Left, bottom, right and top in pixels."""
P = ParamSpec("P")
R = TypeVar("R")

INK, FAINT, RULE = "#1c1f23", "#6b7280", "#d9dce1"
"""Text, notes and grid lines; the page gives an inlined figure its own three."""

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

# Okabe and Ito's colours, which stay apart for colour-blind readers; controls are grey, the ceiling is ink.
KNOWN = {
    "relu": ("#0072B2", "o"),
    "oracle": (INK, "*"),
    "ica": ("#D55E00", "s"),
    "pca": ("#CC79A7", "^"),
    "data_points": ("#E69F00", "D"),
    "random": ("#8a8f98", "X"),
    "neurons": ("#5b616b", "P"),
}
OTHERS = [("#009E73", "v"), ("#56B4E9", "o"), ("#a6761d", "<"), ("#6a51a3", ">"), ("#b2182b", "h"), ("#4d9221", "p")]


def marks(labels: Sequence[str]) -> dict[str, tuple[str, str]]:
    """The colour and marker of each method, the same in every figure and every run of the same methods."""
    new = sorted(set(labels) - set(KNOWN))
    return KNOWN | {label: OTHERS[i % len(OTHERS)] for i, label in enumerate(new)}


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Draws in the report's style, whatever the reader's matplotlib is set to."""

    @wraps(draw)
    def inner(*args: P.args, **kwargs: P.kwargs) -> R:
        import matplotlib

        with matplotlib.rc_context(cast(Any, {**matplotlib.rcParamsDefault, "backend": "agg", **STYLE})):
            return draw(*args, **kwargs)

    return inner


@styled
def to_bytes(figure: Figure, form: str) -> bytes:
    """The figure as ``svg`` or ``png``; equal figures give equal bytes."""
    out = io.BytesIO()
    undated = {"svg": {"Date": None, "Creator": None, "Format": None, "Type": None}, "png": {"Software": None}}
    paper = "white" if form == "png" else "none"
    figure.savefig(out, format=form, dpi=200, metadata=undated[form], facecolor=paper)
    return out.getvalue()


def canvas(width: float, height: float, columns: int = 1, rows: int = 1) -> tuple[Figure, list[Axes]]:
    """An empty figure in inches and its axes, row by row."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    return figure, list(axes.flat)


def plain_log(axis: Any) -> None:
    """Ticks of a log axis as plain numbers, few enough to be read."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    subs = (1.0, 2.0, 5.0) if high / max(low, 1e-12) < 200 else (1.0,)
    axis.set_major_locator(LogLocator(subs=subs, numticks=12))
    axis.set_major_formatter(FuncFormatter(_plain))
    axis.set_minor_formatter(NullFormatter())


def _plain(value: float, _: float) -> str:
    return f"{value:g}" if 1e-4 <= value < 1e6 else f"{value:.0e}"


def place_labels(ax: Axes, labels: Sequence[Label], paths: Sequence[Sequence[tuple[float, float]]]) -> None:
    """Writes each label beside its point where it covers no other label and none of the paths and their points."""
    cast("Figure", ax.figure).draw_without_rendering()
    frame = ax.get_window_extent()
    scale = ax.figure.dpi / 72
    taken: list[Box] = []
    for path in paths:
        dots = ax.transData.transform(np.array(path).reshape(-1, 2))
        taken += [_around(x, y, 4 * scale) for x, y in dots]
        for start, end in pairwise(dots):
            taken += [_around(x, y, scale) for x, y in np.linspace(start, end, 40)]
    for x, y, text, colour in labels:
        px, py = ax.transData.transform((x, y))
        width, height = (len(text) * 5.0 + 4) * scale, 10 * scale
        best: tuple[float, int, float, float, Box] | None = None
        for i, (dx, dy) in enumerate(_AROUND):
            left = px + dx * scale if dx >= 0 else px + dx * scale - width
            left = left - width / 2 if dx == 0 else left
            bottom = py + dy * scale - height / 2
            box = (left, bottom, left + width, bottom + height)
            cost = sum(_overlap(box, other) for other in taken) + _outside(box, frame)
            if best is None or (cost, i) < best[:2]:
                best = (cost, i, dx, dy, box)
        assert best is not None
        _, _, dx, dy, box = best
        taken.append(box)
        side = "left" if dx > 0 else "right" if dx < 0 else "center"
        ax.annotate(text, (x, y), (dx, dy), textcoords="offset points", ha=side, va="center", color=colour, fontsize=8)


_AROUND = [
    *((7, 0), (0, 11), (-7, 0), (0, -11), (7, 11), (-7, 11), (7, -11), (-7, -11)),
    *((0, 22), (0, -22), (7, 22), (-7, 22), (7, -22), (-7, -22), (0, -33), (7, -33), (-7, -33)),
]


def _around(x: float, y: float, half: float) -> Box:
    return x - half, y - half, x + half, y + half


def _overlap(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _outside(box: Box, frame: Any) -> float:
    """A cost for leaving the axes, heavier than covering a point."""
    over = max(frame.x0 - box[0], box[2] - frame.x1, 0) + max(frame.y0 - box[1], box[3] - frame.y1, 0)
    return 40 * over


def thousands() -> Any:
    from matplotlib.ticker import EngFormatter

    return EngFormatter(sep="")


def label_ends(ax: Axes, ends: Sequence[Label], gap: float = 10) -> None:
    """Labels to the right of the lines' ends, pushed apart where they would touch."""
    cast("Figure", ax.figure).draw_without_rendering()
    scale = ax.figure.dpi / 72
    below = -math.inf
    for x, y, text, colour in sorted(ends, key=lambda end: end[1]):
        here = ax.transData.transform((x, y))[1] / scale
        there = max(here, below + gap)
        below = there
        ax.annotate(text, (x, y), (4, there - here), textcoords="offset points", va="center", color=colour, fontsize=8)
