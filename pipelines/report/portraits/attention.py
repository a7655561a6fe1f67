"""Figures of an attention toy: its loss, the effect of each head, and the heads' projections of tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from pipelines.report.portraits._losses import loss_bars
from pipelines.report.style import INK, OTHERS, RULE, Array, canvas, styled
from sae.analysis.circuits.heads import Projections, ablations, projections
from sae.sources.attention import AnswerPositions
from sae.toys.attention.saved import Toy, held_out, load_toy
from sae.toys.attention.task import TokenTask

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROWS = 500
HEADS = 4
_LINEAR = 0.1
"""Increase of the loss up to which the colour scale is linear; beyond it is logarithmic."""


def draw(directory: Path) -> Iterator[tuple[str, str, str, Figure | None]]:
    """The figures of the toy in a source's directory."""
    toy = load_toy(directory)
    rows = AnswerPositions(toy.task, "answers")(held_out(toy.task, toy.seed)[:_ROWS])
    caption = (
        f"Loss in nats per answer on held-out sequences; {toy.scores['accuracy']:.1%} of the answers are right. The "
        "floor is the loss of the best possible predictor. Induction copies the token that followed the longest match; "
        "skip trigrams predict by counts."
    )
    losses = {"model": toy.scores["loss"], "floor": toy.scores["floor"], **toy.predictors}
    yield "toy-loss", "Loss of the model and of simple predictors", caption, loss_bars(losses, "answer")
    ablated = [ablations(toy.model, rows, layer) for layer in range(toy.model.n_layers)]
    rise = np.stack([a.loss_rise.double().numpy() for a in ablated])
    names = place_names(toy.task)
    caption = (
        "Increase of the loss when one head is ablated, in nats per answer; the scale is logarithmic beyond 0.1. Each "
        "row is a position with an answer, each column a head, sorted by total effect. Several coloured cells in a row "
        "mean that several heads contribute to this answer."
    )
    yield (
        "toy-heads",
        "Effect of heads on answers",
        caption,
        head_map(rise, [names[i] for i in ablated[0].position.tolist()]),
    )
    shown = np.argsort(-np.abs(rise[0]).sum(1), kind="stable")[:HEADS]
    caption = (
        "The heads of the first layer with the largest effect, in their two dimensions: keys and values of tokens, "
        "keys of positions, and the directions that write each answer. Lines connect neighbours."
    )
    yield "toy-planes", "Projections of heads", caption, _planes(toy, shown.tolist())


def place_names(task: TokenTask) -> list[str]:
    """The name of each position: that of its group, numbered where there are several."""
    groups = task.places().items()
    named = {p: f"{name}{i}" if len(group) > 1 else name for name, group in groups for i, p in enumerate(group)}
    return [named[p] for p in range(task.n_tokens)]


@styled
def head_map(rise: Array, places: Sequence[str]) -> Figure | None:
    """``rise[layer, head, position]`` as one map per layer, with heads sorted by their total effect, largest first."""
    from matplotlib.colors import SymLogNorm

    layers, heads, answers = rise.shape
    if heads < 2:
        return None
    width, height = 0.9 + 0.26 * max(heads, 6), 0.75 + max(0.2 * answers, 0.9)
    figure, axes = canvas(min(11.4, width * layers + 1.1), height, layers)
    top = max(float(np.abs(rise).max()), 2 * _LINEAR)
    scale, image = SymLogNorm(_LINEAR, vmin=-top, vmax=top), None
    for layer, ax in enumerate(axes):
        order = np.argsort(-np.abs(rise[layer]).sum(1), kind="stable")
        image = ax.imshow(rise[layer, order].T, cmap="RdBu_r", norm=scale, aspect="auto")
        ax.set_xticks(range(heads), [str(h) for h in order], fontsize=7)
        every = max(1, answers // 12)
        ax.set_yticks(range(0, answers, every), places[::every], fontsize=8)
        ax.set(
            xlabel="head" if layers == 1 else f"head of layer {layer}", ylabel="" if layer else "position of the answer"
        )
        ax.grid(False)
        ax.spines[:].set_visible(False)
        ax.tick_params(length=0)
    bar = figure.colorbar(
        cast(Any, image), ax=axes, shrink=0.85, aspect=8 * height, pad=0.015, label="increase of the loss"
    )
    cast(Any, bar.outline).set_visible(False)
    return figure


def _planes(toy: Toy, heads: Sequence[int]) -> Figure | None:
    if toy.network.W_Q.shape[-1] != 2:
        return None
    projected: Projections = projections(toy.model)
    names = place_names(toy.task)
    tokens = {name: (tokens, [str(t) for t in tokens]) for name, tokens in toy.task.classes().items()}
    places = {name: (group, [names[p] for p in group]) for name, group in toy.task.places().items()}
    written = tuple(range(toy.task.d_vocab_out))
    answers = {"answers": (written, [str(t) for t in written])}
    panels = {
        "keys of tokens": (projected.tokens["k"], tokens),
        "values of tokens": (projected.tokens["v"], tokens),
        "keys of positions": (projected.positions["k"], places),
        "answers written": (projected.answers, answers),
    }
    return planes({name: (points.double().numpy(), groups) for name, (points, groups) in panels.items()}, heads)


_Groups = Mapping[str, tuple[Sequence[int], Sequence[str]]]
"""Groups of points by name: the indices of the points, and the label of each."""


@styled
def planes(panels: Mapping[str, tuple[Array, _Groups]], heads: Sequence[int]) -> Figure:
    """``points[head, k, 2]``: one row of panels per kind, one column per head; lines connect the points of a group."""
    figure, axes = canvas(2.3 * len(heads) + 0.4, 2.3 * len(panels), len(heads), len(panels))
    for i, (name, (points, groups)) in enumerate(panels.items()):
        for j, head in enumerate(heads):
            ax = axes[i * len(heads) + j]
            for k, (indices, texts) in enumerate(groups.values()):
                _joined(ax, points[head, list(indices)], texts, k)
            ax.set_aspect("equal", adjustable="datalim")
            ax.margins(0.15)
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
            ax.axhline(0, color=RULE, lw=0.7, zorder=0)
            ax.axvline(0, color=RULE, lw=0.7, zorder=0)
            if i == 0:
                ax.set_title(f"head {head}")
            if j == 0:
                ax.set_ylabel(name)
    return figure


def _joined(ax: Axes, points: Array, texts: Sequence[str], group: int) -> None:
    """The points of a group; every second group is drawn as rings, so that coinciding points remain visible."""
    colour = OTHERS[group % len(OTHERS)][0]
    face, size = ("none", 6.5) if group % 2 else (colour, 3.0)
    ax.plot(points[:, 0], points[:, 1], color=colour, lw=0.7, alpha=0.5)
    ax.plot(points[:, 0], points[:, 1], ls="", marker="o", ms=size, mfc=face, mec=colour)
    offset = [(4, 4), (4, -9), (-15, 4)][group % 3]
    for (x, y), text in zip(points, texts, strict=True):
        ax.annotate(text, (x, y), offset, textcoords="offset points", fontsize=7, color=INK)
