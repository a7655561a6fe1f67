"""Figure of a nonlinear code: samples in activation space, coloured by label."""

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
    """The figure of a code, from samples of the test split."""
    source = open_source(directory, "cpu")
    batch = source.batch(0, N_ROWS, "test")
    rows = batch.acts.double().numpy()
    labels = grouped({name: label.numpy() for name, label in batch.labels.items()})
    if source.subspaces is not None:
        rows = (batch.acts @ source.subspaces[0].T).double().numpy()
        labels = dict(list(labels.items())[:1])  # the label of the first subspace
    places, shares = principal(rows)
    if places.shape[1] == 1:
        caption = "Samples along their only direction, stacked by label. A latent is active on a half-line."
        yield "code", "The code", caption, _lines(places[:, 0], labels)
    else:
        space = "the first subspace" if source.subspaces is not None else "activation space"
        caption = (
            f"Samples on the first two principal components in {space} ({shares[0]:.0%} and {shares[1]:.0%} of the "
            "variance), coloured by label. A latent is active on a half-space: it can detect a label whose samples are "
            "together at the edge, but not one whose samples are scattered."
        )
        yield "code", "The code", caption, _planes(places[:, :2], labels)


def grouped(labels: Mapping[str, NDArray[np.int64]]) -> dict[str, NDArray[np.int64]]:
    """Merges 0/1 labels called ``<name>_bin_<b>`` into one label of classes, -1 where none is 1; keeps the others."""
    merged: dict[str, NDArray[np.int64]] = {}
    for name, label in labels.items():
        stem, is_bin, number = name.partition("_bin_")
        if is_bin:
            merged.setdefault(stem, np.full(len(label), -1))[label == 1] = int(number)
        else:
            merged[name] = label
    return merged


def principal(rows: Array) -> tuple[Array, Array]:
    """The rows on their principal components with non-zero variance, and the share of variance of each."""
    centred = rows - rows.mean(0)
    _, strength, directions = np.linalg.svd(centred, full_matrices=False)
    share = strength**2 / (strength**2).sum()
    varying = share > 1e-6
    # The sign of an SVD depends on the library; here the largest entry of each direction is positive.
    axes = directions[varying]
    axes *= np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])[:, None]
    return rows @ axes.T, share[varying]


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
        ax.set(title=name, xlabel="position along the direction", ylabel="samples")
        _key(ax, classes)
    return figure


@styled
def _planes(places: Array, labels: Mapping[str, NDArray[np.int64]]) -> Figure | None:
    """A scatter plot for each of the first labels; samples of no class are pale."""
    shown = dict(list(labels.items())[:_MOST_PANELS])
    if not shown or not len(places):
        return None
    figure, axes = canvas(4.6 * len(shown), 4.2, len(shown))
    for ax, (name, label) in zip(axes, shown.items(), strict=True):
        classes = np.unique(label[label >= 0])
        for c in (*([-1] if (label < 0).any() else []), *classes):
            colour = RULE if c < 0 else _colour(int(c), classes)
            ax.scatter(*places[label == c].T, s=7, color=colour, linewidths=0, label="off" if c < 0 else str(c))
        ax.set(title=name, xlabel="first component", ylabel="second component", aspect="equal")
        _key(ax, classes)
    return figure


def _colour(value: int, classes: NDArray[np.int64]) -> Any:
    """Hues of a colour circle, so that the first and the last class have similar colours, like arcs of a circle."""
    at = int(np.searchsorted(classes, value))
    return ("#0072B2", "#E69F00")[at] if len(classes) == 2 else hls_to_rgb(at / len(classes), 0.47, 0.62)


def _key(ax: Axes, classes: NDArray[np.int64]) -> None:
    if len(classes) > 16:
        ax.text(1, 1.02, f"{len(classes)} classes", transform=ax.transAxes, ha="right", va="bottom", color=FAINT)
        return
    ax.legend(fontsize=7, handlelength=0.8, ncols=2, loc="center left", bbox_to_anchor=(1.0, 0.5), labelspacing=0.3)
