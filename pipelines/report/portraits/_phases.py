"""The phase diagram: how one feature is represented, by its importance and density."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from pipelines.report.style import INK, Array, canvas, plain_log, styled
from sae.analysis.toy_models.phases import Phase, predicted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PHASES = {
    "not represented": "#f1f2f4",
    "dedicated": "#0072B2",
    "opposite another": "#D55E00",
    "merged with another": "#E69F00",
}
"""The phases of a feature, and their colours."""


def composition(W: Array) -> Array:
    """Weights of the last of the features ``[..., n, m]`` in each of the `PHASES`, ``[..., 4]``; they sum to 1.

    With w the unit row of the feature, it is represented to the degree of its length (at most 1) and shares
    ``sum_j (w . W_j)^2`` of its dimension with the others: with those opposite to it (negative product), and with those
    it is merged with (positive product).
    """
    last, others = W[..., -1, :], W[..., :-1, :]
    length = np.linalg.norm(last, axis=-1)
    unit = last / np.maximum(length, 1e-12)[..., None]
    along = np.einsum("...nm,...m->...n", others, unit)
    against, merged = ((s * along).clip(min=0) ** 2 for s in (-1, 1))
    shared = np.stack([against.sum(-1), merged.sum(-1)], axis=-1)
    shared /= np.maximum(shared.sum(-1, keepdims=True), 1.0)
    represented = length.clip(max=1.0)
    alone = 1 - shared.sum(-1)
    parts = [1 - represented, represented * alone, represented * shared[..., 0], represented * shared[..., 1]]
    return np.stack(parts, axis=-1)


def expected(importance: Array, density: Array, n_features: int) -> NDArray[np.intp]:
    """The phase of least loss as an index into `PHASES`, ``[n_density, n_importance]``."""
    phases: list[Phase] = ["ignored", "dedicated", "antipodal"]
    rows = [[phases.index(predicted(p, r, n_features)) for r in importance.tolist()] for p in density.tolist()]
    return np.array(rows, dtype=np.intp)


@styled
def phase_diagram(importance: Array, density: Array, parts: Array, n_features: int) -> Figure | None:
    """Left the trained networks, ``parts [n_density, n_importance, 4]`` of :func:`composition`, as mixed colours;
    right the phase of least loss. The borders of the latter are drawn on both."""
    if len(importance) < 2 or len(density) < 2:
        return None
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Patch

    colours = np.array([to_rgb(colour) for colour in PHASES.values()])
    figure, (left, right) = canvas(7.4, 3.9, 2)
    across, up = _edges(importance), _edges(density)
    left.pcolormesh(across, up, cast(Any, (parts @ colours).clip(0, 1)), rasterized=True)
    r = np.geomspace(across[0], across[-1], 240)
    p = np.geomspace(up[0], min(up[-1], 1.0), 240).clip(max=1.0)
    least = expected(r, p, n_features)
    right.pcolormesh(r, p, cast(Any, colours[least]), shading="nearest", rasterized=True)
    for ax, title in ((left, "trained"), (right, "least loss")):
        for phase in np.unique(least):
            ax.contour(r, p, (least == phase).astype(float), [0.5], colors=INK, linewidths=0.9)
        ax.set_title(title)
        _frame(ax, across, up)
    left.set_ylabel("density of features, p")
    shown = [Patch(color=colour, label=name) for name, colour in PHASES.items() if name != "merged with another"]
    shown += [Patch(color=PHASES["merged with another"], label="merged with another")] * bool(parts[..., 3].max() > 0.2)
    figure.legend(handles=shown, loc="outside lower center", ncols=4, fontsize=8, handlelength=1.1, columnspacing=1.3)
    return figure


def _edges(values: Array) -> Array:
    """The edges of cells on a log axis, half-way between the centres."""
    logs = np.log(values)
    middle = (logs[1:] + logs[:-1]) / 2
    return np.exp(np.concatenate([[2 * logs[0] - middle[0]], middle, [2 * logs[-1] - middle[-1]]]))


def _frame(ax: Axes, across: Array, up: Array) -> None:
    ax.set(xscale="log", yscale="log", xlim=(across[0], across[-1]), ylim=(up[0], min(up[-1], 1.0)))
    ax.set_xlabel("importance of the last feature, r")
    ax.grid(False)
    ax.spines[:].set_visible(False)
    plain_log(ax.xaxis)
    plain_log(ax.yaxis)
