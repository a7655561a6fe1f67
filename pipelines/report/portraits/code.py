"""A nonlinear code as it lies in the space of activations, coloured by what the labels name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from colorsys import hls_to_rgb
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines.report.style import FAINT, RULE, Array, canvas, styled
from pipelines.steps.source_steps import open_source

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

N_ROWS = 3000
_MOST_PANELS = 2


def draw(directory: Path) -> Iterator[tuple[str, str, str, Figure | None]]:
    """The one figure of a code: rows of the test split."""
    source = open_source(directory, "cpu")
    batch = source.batch(0, N_ROWS, "test")
    rows = batch.acts.double().numpy()
    labels = grouped({name: label.numpy() for name, label in batch.labels.items()})
    if source.subspaces is not None:
        rows = (batch.acts @ source.subspaces[0].T).double().numpy()
        labels = dict(list(labels.items())[:1])  # the first subspace's own
    places, shares = principal(rows)
    if places.shape[1] == 1:
        caption = "Rows along the one direction that they fill, stacked by label; a latent reads a half-line of it."
        yield "code", "The code", caption, _lines(places[:, 0], labels)
    else:
        of = "the first subspace" if source.subspaces is not None else "the activations"
        caption = (
            f"Rows on the two directions in which {of} vary most ({shares[0]:.0%} and {shares[1]:.0%} of the "
            "variance), coloured by label. A latent reads a half-space: it can do for a label whose rows lie together "
            "at the edge, and not for one that is strewn about."
        )
        yield "code", "The code", caption, _planes(places[:, :2], labels)


def grouped(labels: Mapping[str, NDArray[np.int64]]) -> dict[str, NDArray[np.int64]]:
    """0/1 labels called ``<name>_bin_<b>`` as one label of classes, -1 where none holds; the others as they are."""
    found: dict[str, NDArray[np.int64]] = {}
    for name, label in labels.items():
        stem, is_bin, number = name.partition("_bin_")
        if is_bin:
            found.setdefault(stem, np.full(len(label), -1))[label == 1] = int(number)
        else:
            found[name] = label
    return found


def principal(rows: Array) -> tuple[Array, Array]:
    """The rows on their principal directions that carry variance, and the shares of it."""
    centred = rows - rows.mean(0)
    _, strength, directions = np.linalg.svd(centred, full_matrices=False)
    share = strength**2 / (strength**2).sum()
    kept = share > 1e-6
    # A sign of its own would be the library's: each direction points where its largest entry is positive.
    axes = directions[kept]
    axes *= np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])[:, None]
    return rows @ axes.T, share[kept]


@styled
def _lines(place: Array, labels: Mapping[str, NDArray[np.int64]]) -> Figure | None:
    """A stacked histogram for each of the first labels."""
    shown = dict(list(labels.items())[:_MOST_PANELS])
    if not shown or not len(place):
        return None
    figure, axes = canvas(5.6 * len(shown), 3.2, len(shown))
    for ax, (name, label) in zip(axes, shown.items(), strict=True):
        classes = np.unique(label)
        colours = [_colour(int(c), classes) for c in classes]
        ax.hist(
            [place[label == c] for c in classes], bins=64, stacked=True, color=colours, label=[str(c) for c in classes]
        )
        ax.set(title=name, xlabel="place along the direction", ylabel="rows")
        _key(ax, classes)
    return figure


@styled
def _planes(places: Array, labels: Mapping[str, NDArray[np.int64]]) -> Figure | None:
    """A scatter for each of the first labels; what no class holds is pale."""
    shown = dict(list(labels.items())[:_MOST_PANELS])
    if not shown or not len(places):
        return None
    figure, axes = canvas(4.6 * len(shown), 4.2, len(shown))
    for ax, (name, label) in zip(axes, shown.items(), strict=True):
        classes = np.unique(label[label >= 0])
        for c in (*([-1] if (label < 0).any() else []), *classes):
            colour = RULE if c < 0 else _colour(int(c), classes)
            ax.scatter(*places[label == c].T, s=7, color=colour, linewidths=0, label="off" if c < 0 else str(c))
        ax.set(title=name, xlabel="first direction", ylabel="second direction", aspect="equal")
        _key(ax, classes)
    return figure


def _colour(value: int, classes: NDArray[np.int64]) -> Any:
    """Hues round a circle, so that the first class and the last are neighbours, as arcs of a circle are."""
    at = int(np.searchsorted(classes, value))
    return ("#0072B2", "#E69F00")[at] if len(classes) == 2 else hls_to_rgb(at / len(classes), 0.47, 0.62)


def _key(ax: Axes, classes: NDArray[np.int64]) -> None:
    if len(classes) > 16:
        ax.text(1, 1.02, f"{len(classes)} classes", transform=ax.transAxes, ha="right", va="bottom", color=FAINT)
        return
    ax.legend(fontsize=7, handlelength=0.8, ncols=2, loc="center left", bbox_to_anchor=(1.0, 0.5), labelspacing=0.3)
