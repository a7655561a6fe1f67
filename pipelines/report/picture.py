"""Figures with a title and a caption, and the files that a report keeps of them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pipelines.report.style import to_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Picture(NamedTuple):
    """A figure with its title and caption."""

    name: str
    """File name without ending."""
    title: str
    """Heading on the page."""
    caption: str
    """How to read the figure."""
    figure: Figure
    """The matplotlib figure."""


class ShownFigure(NamedTuple):
    """A figure as SVG with its title and caption."""

    name: str
    """File name without ending; also the CSS class on the page."""
    title: str
    """Heading on the page."""
    caption: str
    """How to read the figure."""
    svg: str
    """The SVG document."""


def write_pictures(pictures: Iterable[Picture], out: Path, source: int, n_sources: int) -> list[ShownFigure]:
    """Writes the figures of one source as SVG and PNG and returns them as SVG.

    They go to ``figures/`` in `out`; with several sources, to ``figures/source-<i>/``.
    """
    folder = out / "figures" / (f"source-{source}" if n_sources > 1 else "")
    shown: list[ShownFigure] = []
    for picture in pictures:
        folder.mkdir(parents=True, exist_ok=True)
        svg = to_bytes(picture.figure, "svg")
        (folder / f"{picture.name}.svg").write_bytes(svg)
        (folder / f"{picture.name}.png").write_bytes(to_bytes(picture.figure, "png"))
        shown.append(ShownFigure(picture.name, picture.title, picture.caption, svg.decode()))
    return shown
