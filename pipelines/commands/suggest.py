"""A suggestion of the right sparsity for a config: a sweep of targets by the steps of any run, and its evidence.

The sweep is a config like another (the source, ``[train]`` and widths of the one given, a list of targets), so that
its dictionaries lie among those of other runs, and suggesting again trains nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipelines import runner
from pipelines.config.config import Config, parse
from pipelines.plan import plan
from pipelines.report.settings_table import ScoredRow, Setting, settings_of
from pipelines.report.style import FAINT, canvas, marks, plain_log, styled, to_bytes
from pipelines.steps.progress import Board
from pipelines.steps.source_steps import open_source
from pipelines.steps.step import Runtime, Step
from pipelines.steps.store import Store
from sae.analysis.suggestion import Suggestion, suggest
from sae.architecture import DictionaryConfig, SelectingConfig
from sae.numerics.atomic_write import write_atomically
from sae.registry import UserError, config_class

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCORE = "decoder_cosine"
_SEEDS = [0, 1, 2]
N_TARGETS = 8
ROUNDS = 3
"""A sweep that is not given is looked at, and widened or filled in around the minimum, at most so often."""
AIMS = frozenset({"k", "l0", "l1", "l0_coefficient"})
"""Fields that say how sparse: the sweep's own to set."""


@dataclass(frozen=True)
class SparsityCurve:
    """The settings of one source, method and width from sparse to dense, and what they suggest."""

    sweep: Sequence[Setting]
    found: Suggestion

    @property
    def title(self) -> str:
        first = self.sweep[0]
        return f"{first.source}, {first.label}, {first.n_latents} latents"

    @property
    def true_l0(self) -> float:
        """NaN where the source does not know."""
        return self.sweep[0].mean("true_l0")


def run(
    settings: Config, kind: str, targets: Sequence[int] | None, root: Path, board: Board
) -> tuple[list[SparsityCurve], Path]:
    """Trains and scores what is missing of the sweep; the curves, and the folder where their evidence lies."""
    store, runtime = Store(root), runner.execution(settings.runtime)
    widths = list(dict.fromkeys(d.n_latents for d in settings.dictionaries))
    if not widths:
        raise UserError("dictionary.n_latents is missing: how wide are the dictionaries to be?")
    if targets is not None and len(set(targets)) < 3:
        raise UserError("--targets: a minimum needs three targets at least, one on each side of it")
    folder = root / f"{settings.name}-suggestion"
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: in the way of the evidence; move it, or give the config another name")
    if targets is not None:
        asked = {width: sorted(set(targets)) for width in widths}
        curves = _sweep(settings, kind, asked, store, runtime, board)
    else:
        # A grid depends on the width of the source, which is known once it is there.
        steps = plan(_config(settings, kind, {width: [1] for width in widths}))
        sources = [step for step in steps if step.stage in ("generate", "stream")]
        runner.run(sources, store, runtime, board)
        d_in = open_source(store.directory(sources[0]), "cpu").d_in
        asked = {width: grid(width, d_in) for width in widths}
        curves = _sweep(settings, kind, asked, store, runtime, board)
        for _ in range(ROUNDS - 1):
            added = {n: [t for c in curves if c.sweep[0].n_latents == n for t in more(c)] for n in widths}
            if not any(added.values()):
                break
            asked = {n: sorted({*asked[n], *added[n]}) for n in widths}
            curves = _sweep(settings, kind, asked, store, runtime, board)
    _write(folder, curves)
    return curves, folder


def _sweep(
    settings: Config, kind: str, targets: Mapping[int, Sequence[int]], store: Store, runtime: Runtime, board: Board
) -> list[SparsityCurve]:
    """Does the steps of a sweep that are not done, all but the report, and reads its curves."""
    steps = plan(_config(settings, kind, targets))[:-1]
    runner.run(steps, store, runtime, board)
    return list(_curves([step for step in steps if step.stage == "score"], store))


def grid(n_latents: int, d_in: int) -> list[int]:
    """Targets from about 1/32 of the most that can be told apart, half the smaller of `n_latents` and `d_in`."""
    most = max(min(n_latents, d_in) / 2, min(n_latents, 4))
    return sorted({max(1, round(t)) for t in np.geomspace(max(1.0, most / 32), most, N_TARGETS).tolist()})


def more(curve: SparsityCurve) -> list[int]:
    """Targets to add: beyond an end at which the minimum may be, or between those around a clear one."""
    targets = [round(_target(s)) for s in curve.sweep]
    low, high, found = targets[0], targets[-1], curve.found
    most = curve.sweep[0].n_latents or high
    if found.verdict == "low end":
        return sorted({max(1, round(low / f)) for f in (1.5, 2.2, 3.3)} - set(targets))
    if found.verdict == "high end":
        return sorted({min(most, round(high * f)) for f in (1.3, 1.7, 2.2)} - set(targets))
    if found.verdict == "flat":
        return []
    below, above = max(t for t in targets if t <= found.low), min(t for t in targets if t >= found.high)
    return sorted({round(t) for t in np.geomspace(below, above, 7).tolist()} - set(targets))


def _config(settings: Config, kind: str, targets: Mapping[int, Sequence[int]]) -> Config:
    """The sweep as a config of its own; the settings of a dictionary of the kind are kept but for its sparsity."""
    try:
        cls = config_class("sae.dictionaries", kind)
    except ValueError as error:
        raise UserError(f"--kind: {error}") from None
    assert issubclass(cls, DictionaryConfig)
    aim = "k" if issubclass(cls, SelectingConfig) else "l0"
    if aim not in cls.model_fields:
        raise UserError(f"--kind {kind}: has no target of L0 to sweep over; try batchtopk")
    given = settings.given.get("dictionary", [])
    own = next((t for t in (given if isinstance(given, list) else [given]) if t.get("kind") == kind), {"kind": kind})
    kept = {name: value for name, value in own.items() if name not in AIMS | {"n_latents"}}
    seeds = list(settings.seeds) if len(settings.seeds) > 1 else _SEEDS
    table = {
        "name": settings.name,
        "source": settings.given["source"],
        "dictionary": [{**kept, "n_latents": width, aim: list(values)} for width, values in targets.items()],
        "train": {**settings.given.get("train", {}), "seeds": seeds},
        "score": {"n_rows": settings.n_rows, "metrics": ["reconstruction", "coherence"]},
    }
    return replace(parse(table), runtime=settings.runtime)


def _curves(scored: Sequence[Step], store: Store) -> Iterator[SparsityCurve]:
    sweeps: dict[Any, list[Setting]] = {}
    for s in settings_of([_row(store.directory(step) / "scores.json") for step in scored]):
        sweeps.setdefault((s.source, s.label, s.n_latents, s.others), []).append(s)
    for sweep in sweeps.values():
        sweep.sort(key=_target)
        yield SparsityCurve(sweep, suggest([_target(s) for s in sweep], [s.samples[SCORE] for s in sweep]))


def _row(file: Path) -> ScoredRow:
    content = json.loads(file.read_text())
    return ScoredRow(content["row"], {k: math.nan if v is None else float(v) for k, v in content["scores"].items()})


def _target(s: Setting) -> float:
    assert s.target_l0 is not None
    return s.target_l0


def _write(folder: Path, curves: Sequence[SparsityCurve]) -> None:
    """Leaves ``suggestion.json`` and a figure of each curve."""
    folder.mkdir(parents=True, exist_ok=True)
    told: list[dict[str, Any]] = []
    for i, curve in enumerate(curves):
        name = f"suggestion-{i}" if len(curves) > 1 else "suggestion"
        figure = draw_sweep(curve)
        for form in ("svg", "png"):
            write_atomically(folder / f"{name}.{form}", to_bytes(figure, form))
        sweep = [{"target_l0": _target(s), "l0": s.mean("l0"), SCORE: s.samples[SCORE]} for s in curve.sweep]
        known = curve.true_l0 if math.isfinite(curve.true_l0) else None
        numbers = {k: v if v != math.inf else None for k, v in asdict(curve.found).items()}
        told.append({"of": curve.title, **numbers, "true_l0": known, "sentence": sentence(curve), "sweep": sweep})
    write_atomically(folder / "suggestion.json", (json.dumps(told, indent=1) + "\n").encode())


@styled
def draw_sweep(curve: SparsityCurve) -> Figure:
    """decoder_cosine against the target: means with 95% intervals, a dot for each seed, the interval of the suggestion
    shaded, and the true L0 where it is known."""
    figure, (ax,) = canvas(5.6, 4.0)
    colour, marker = marks([curve.sweep[0].label])[curve.sweep[0].label]
    x = np.array([_target(s) for s in curve.sweep])
    mean = np.array([s.mean(SCORE) for s in curve.sweep])
    half = np.array([np.nan_to_num(s.scores[SCORE].half) for s in curve.sweep])
    ax.fill_between(x, (mean - half).clip(min=0), mean + half, color=colour, alpha=0.15, lw=0)
    ax.plot(x, mean, color=colour, marker=marker, ms=5)
    for target, s in zip(x, curve.sweep, strict=True):
        ax.scatter([target] * len(s.samples[SCORE]), s.samples[SCORE], s=9, color=colour, alpha=0.5, linewidths=0)
    ax.set(xscale="log", xlabel="target l0, active latents per row", ylabel=SCORE)
    ax.set_ylim(bottom=0)
    plain_log(ax.xaxis)
    lines: list[tuple[float, str, str]] = []
    if curve.found.l0 is not None:
        ax.axvspan(curve.found.low, curve.found.high, color=colour, alpha=0.1, lw=0, zorder=0)
        lines.append((curve.found.l0, f"suggested {curve.found.l0:.3g}", colour))
    if math.isfinite(curve.true_l0):
        lines.append((curve.true_l0, f"true {curve.true_l0:.3g}", FAINT))
    for at, _, ink in lines:
        ax.axvline(at, color=ink, lw=1, ls=(0, (4, 3)), zorder=0)
    # The two lie together where the method works: their names go to either side.
    sides = ("right", "left") if len(lines) > 1 else ("center",)
    for (at, text, ink), side in zip(sorted(lines), sides, strict=False):
        ax.text(at, 1.015, f" {text} ", color=ink, ha=side, va="bottom", transform=ax.get_xaxis_transform())
    return figure


def sentence(curve: SparsityCurve) -> str:
    """What the curve says, and what to do."""
    found, known = curve.found, math.isfinite(curve.true_l0)
    first, last = (f"{_target(s):g}" for s in (curve.sweep[0], curve.sweep[-1]))
    true = f"; the true L0 is {curve.true_l0:.3g}" if known else ""
    if found.l0 is not None:
        off = f" ({100 * (found.l0 / curve.true_l0 - 1):+.0f}%)" if known else ""
        bounds = f"{found.low:.3g} to {found.high:.3g}"
        return f"suggested L0: {found.l0:.3g}, between {bounds} by {found.n_seeds} seeds{true}{off}"
    if found.verdict == "flat":
        return (
            f"flat: no L0 from {first} to {last} stands out ({SCORE} rises by {100 * found.depth:.1f}% on its "
            f"shallower side, by {found.n_seeds} seeds), so none is suggested; try more steps or seeds{true}"
        )
    at, beyond = (first, "lower") if found.verdict == "low end" else (last, "higher")
    return f"no minimum: {SCORE} is least at the end of the sweep, {at}; give {beyond} --targets as well{true}"


def print_suggestion(curves: Sequence[SparsityCurve], folder: Path, console: Console) -> None:
    """Prints each curve as a table, what it says, and where the evidence lies."""
    for curve in curves:
        scores = [name for name in ("l0", SCORE, "fvu", "dead") if math.isfinite(curve.sweep[0].mean(name))]
        table = Table(title=escape(curve.title), title_justify="left", title_style="italic", box=None, pad_edge=False)
        for name in ("target_l0", *scores):
            table.add_column(name, no_wrap=True, justify="right")
        for s in curve.sweep:
            numbers = [
                f"{s.mean(n):.4f} ± {s.scores[n].half:.4f}" if n == SCORE else f"{s.mean(n):.3g}" for n in scores
            ]
            table.add_row(f"{_target(s):g}", *numbers)
        console.print(table)
        console.print(sentence(curve), markup=False, highlight=False)
    console.print(f"evidence: {folder}", markup=False, highlight=False, soft_wrap=True)
