"""The losses of a model and of simpler predictors as bars."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pipelines.report.style import FAINT, OTHERS, canvas, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def loss_bars(losses: Mapping[str, float], of: str) -> Figure:
    """One bar per predictor of tokens or answers, the model's in colour."""
    figure, (ax,) = canvas(5.6, 0.5 + 0.28 * len(losses))
    names = sorted(losses, key=lambda name: losses[name], reverse=True)
    colours = [OTHERS[0][0] if name == "model" else FAINT for name in names]
    ax.barh(range(len(names)), [losses[n] for n in names], color=colours, height=0.6)
    for i, name in enumerate(names):
        ax.annotate(
            f"{losses[name]:.3g}", (losses[name], i), (4, 0), textcoords="offset points", va="center", fontsize=8
        )
    ax.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)
    ax.margins(x=0.1)
    ax.set(xlabel=f"loss, nats per {of}")
    return figure
