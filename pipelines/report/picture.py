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


def of_source(pictures: Iterable[Picture], source: int, n_sources: int) -> dict[str, Picture]:
    """The figures of one source by their paths in ``figures/``, without ending: their names; with several sources,
    ``source-<i>/`` and their names."""
    folder = f"source-{source}/" if n_sources > 1 else ""
    return {f"{folder}{picture.name}": picture for picture in pictures}


def write_pictures(pictures: Iterable[Picture], out: Path, source: int, n_sources: int) -> list[ShownFigure]:
    """Writes the figures of one source to ``figures/`` in `out`, as SVG and PNG, and returns them as SVG."""
    shown: list[ShownFigure] = []
    for path, picture in of_source(pictures, source, n_sources).items():
        file = out / "figures" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        svg = to_bytes(picture.figure, "svg")
        file.with_name(f"{file.name}.svg").write_bytes(svg)
        file.with_name(f"{file.name}.png").write_bytes(to_bytes(picture.figure, "png"))
        shown.append(ShownFigure(picture.name, picture.title, picture.caption, svg.decode()))
    return shown
