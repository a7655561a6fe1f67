"""Histograms as inline SVG in the colours of the page."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from markupsafe import Markup

WIDTH, HEIGHT, FOOT = 320, 96, 18


def histogram(
    counts: Sequence[int], edges: Sequence[float], description: str, text: Callable[[float], str] = "{:.3g}".format
) -> Markup:
    """A histogram over bins of equal ratio, from the first to the last non-empty bin; empty if all bins are.

    `description` is the text for screen readers, `text` formats a value. Ticks are at powers of ten, or at both ends if
    there are fewer than two powers.
    """
    filled = [i for i, n in enumerate(counts) if n]
    if not filled:
        return Markup("")
    low, high = filled[0], filled[-1] + 1
    shown, most = counts[low:high], max(counts)
    step = WIDTH / len(shown)
    bars = "".join(
        f'<rect x="{i * step:.1f}" y="{HEIGHT * (1 - n / most):.1f}" width="{max(step - 1, 0.5):.1f}" '
        f'height="{HEIGHT * n / most:.1f}"><title>{text(edges[low + i])} to {text(edges[low + i + 1])}: {n:,}'
        "</title></rect>"
        for i, n in enumerate(shown)
        if n
    )
    ticks = _powers(edges[low], edges[high])
    marks = [(t, math.log(t / edges[low]) / math.log(edges[high] / edges[low])) for t in ticks]
    marks = marks if len(marks) > 1 else [(edges[low], 0.0), (edges[high], 1.0)]
    names = "".join(
        f'<text x="{WIDTH * at:.1f}" y="{HEIGHT + 13}" text-anchor="{_anchor(at)}">{text(t)}</text>' for t, at in marks
    )
    return Markup(
        f'<svg class="bars" viewBox="0 0 {WIDTH} {HEIGHT + FOOT}" role="img" aria-label="{Markup.escape(description)}">'
        f'{bars}<path d="M0 {HEIGHT}H{WIDTH}"/>{names}</svg>'
    )


def _powers(low: float, high: float) -> list[float]:
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    return [10.0**p for p in range(first, last + 1)]


def _anchor(at: float) -> str:
    return "start" if at < 0.06 else "end" if at > 0.94 else "middle"
