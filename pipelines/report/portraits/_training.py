"""Figures of the training and of the errors of networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pipelines.report.style import INK, KNOWN, Array, canvas, plain_log, styled
from sae.analysis.toy_models.by_active import Stratum

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OTHER, CHOSEN = "#56B4E9", INK


@styled
def training(
    step: Array, history: Array, final: Sequence[Array], labels: Sequence[str], chosen: tuple[int, int]
) -> Figure | None:
    """Training losses of the instances at one point, ``history [n_logged, n_instances]``, and the `final` losses of the
    instances at each point. `chosen` is the point and the instance whose activations are the source."""
    if len(step) < 2 or not history.size:
        return None
    figure, (left, right) = canvas(8.6, 3.3, 2)
    point, instance = chosen
    order = [i for i in range(history.shape[1]) if i != instance] + [instance]
    for i in order:
        is_chosen = i == instance
        left.plot(step, history[:, i], color=CHOSEN if is_chosen else OTHER, lw=1.6 if is_chosen else 0.8, alpha=0.9)
    left.set(yscale="log", xlabel="step", ylabel="batch loss", title=labels[point])
    right.set(yscale="log", ylabel="held-out loss")
    if len(final) > 1:
        _by_point(right, final, labels, chosen)
    else:
        _ranked(right, final[0], instance)
    for ax in (left, right):
        plain_log(ax.yaxis)
    return figure


def _by_point(ax: Axes, final: Sequence[Array], labels: Sequence[str], chosen: tuple[int, int]) -> None:
    for i, losses in enumerate(final):
        spread = np.linspace(-0.22, 0.22, len(losses)) if len(losses) > 1 else np.zeros(1)
        ax.plot(i + spread, np.sort(losses), ".", color=OTHER, ms=4)
    rank = int(np.argsort(np.argsort(final[chosen[0]], kind="stable"), kind="stable")[chosen[1]])
    n = len(final[chosen[0]])
    at = chosen[0] + (0.0 if n == 1 else -0.22 + 0.44 * rank / (n - 1))
    ax.plot(at, final[chosen[0]][chosen[1]], "o", color=CHOSEN, ms=5)
    name = labels[0].partition(" = ")[0]
    every = max(1, -(-len(labels) // 12))
    values = [text.partition(" = ")[2] for text in labels]
    ax.set_xticks(range(0, len(labels), every), values[::every], rotation=0 if max(map(len, values)) < 6 else 45)
    ax.set_xlabel(name)
    ax.grid(axis="x", visible=False)


def _ranked(ax: Axes, losses: Array, instance: int) -> None:
    from matplotlib.ticker import MaxNLocator

    order = np.argsort(losses, kind="stable")
    ax.plot(np.arange(1, len(losses) + 1), losses[order], ".", color=OTHER, ms=6)
    ax.plot([int(np.flatnonzero(order == instance)[0]) + 1], [losses[instance]], "o", color=CHOSEN, ms=6)
    ax.set_xlabel("instance, sorted by loss")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


@styled
def draw_by_active(network: Sequence[Stratum], fvu: Mapping[int, float], dictionary: str = "") -> Figure | None:
    """The network's loss by number of active features and, if `fvu` (number of active features -> fvu) has several
    entries, the fvu of a dictionary next to it."""
    if len(network) < 2:
        return None
    both = len(fvu) > 1
    figure, axes = canvas(4.2 * (1 + both), 3.2, 1 + both)
    k = [s.n_active for s in network]
    mean, half = np.array([s.mean for s in network]), np.array([s.half for s in network])
    axes[0].errorbar(k, mean, half, color=INK, marker="o", ms=4.5, lw=1.4, elinewidth=1)
    axes[0].set(title="the network", ylabel="loss per sample")
    for ax in axes[1:]:
        ax.plot(list(fvu), list(fvu.values()), color=KNOWN["relu"][0], marker="o", ms=4.5, lw=1.4)
        ax.set(title=dictionary, ylabel="fvu")
    for ax in axes:
        ax.set_ylim(0, 1.06 * ax.get_ylim()[1])
        ax.set(xlabel="active features in the sample", xlim=(min(k) - 0.25, max(k) + 0.25))
        ax.set_xticks(range(min(k), max(k) + 1, 1 + (max(k) - min(k)) // 12))
    return figure
