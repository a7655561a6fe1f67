"""Suggests a target L0 for a config from a sweep of targets, and writes the sweep as a figure and as JSON.

The sweep is itself a config: the source, ``[train]`` and widths of the user's, with a list of targets. Its steps are
stored like those of any run, so running it again trains nothing.
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

from pipelines import runner
from pipelines.config.config import Config, parse
from pipelines.config.names import counted
from pipelines.plan import plan
from pipelines.report.settings_table import Setting, read_scored_row, settings_of
from pipelines.report.style import FAINT, canvas, marks, plain_log, styled, to_bytes
from pipelines.report.text_table import TextColumn, print_sentence, print_text_table
from pipelines.steps.external_files import open_checked
from pipelines.steps.progress import Board
from pipelines.steps.step import Runtime, Step
from pipelines.steps.store import Store
from sae.analysis.suggestion import Suggestion, random_cosine, suggest
from sae.architecture import DictionaryConfig, SelectingConfig
from sae.numerics.atomic_write import write_atomically
from sae.registry import UserError, config_class

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCORE = "decoder_cosine"
"""The score whose minimum is sought."""
_SEEDS = [0, 1, 2]
N_TARGETS = 8
"""Targets in the first sweep, where the user gives none."""
ROUNDS = 3
"""Without given targets, the most sweeps to train: the first grid, then targets added around or beyond its minimum."""
SPARSITY_FIELDS = frozenset({"k", "l0", "l1", "l0_coefficient"})
"""Fields that set the sparsity of a dictionary; the sweep replaces them."""


@dataclass(frozen=True)
class SparsityCurve:
    """A sweep over the target L0 for one source, method and width."""

    sweep: Sequence[Setting]
    """The settings in order of increasing target."""
    suggestion: Suggestion
    """The minimum of `SCORE` over the sweep."""
    d_in: int | None = None
    """Dimensions of the activations; None where they are not known."""

    @property
    def title(self) -> str:
        """Source, method and width as text."""
        first = self.sweep[0]
        return f"{first.source}, {first.label}, {counted(first.n_latents or 0, 'latent')}"

    @property
    def true_l0(self) -> float:
        """Mean number of active features per sample; NaN where the source does not know it."""
        return self.sweep[0].mean("true_l0")


def run(
    settings: Config, kind: str, targets: Sequence[int] | None, root: Path, board: Board
) -> tuple[list[SparsityCurve], Path]:
    """Trains and scores the missing dictionaries of the sweep; returns the curves and the folder with their figures.

    `kind` is the kind of dictionary to train, and `targets` the values of L0, or None for a grid refined around its
    minimum. Raises `UserError` where the config has no width, the kind has no target, or fewer than three are given.
    """
    store, runtime = Store(root), runner.execution(settings.runtime)
    widths = list(dict.fromkeys(d.n_latents for d in settings.dictionaries))
    if not widths:
        raise UserError("dictionary.n_latents is missing: give the width of the dictionaries, for example 512")
    if targets is not None and len(set(targets)) < 3:
        raise UserError(
            f"--targets {','.join(map(str, targets))}: fewer than three; give a target on each side of the minimum"
        )
    folder = root / f"{settings.name}-suggestion"
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: exists and is not a folder; move it, or rename the config")
    d_in = _prepare(settings, kind, {width: targets or [1] for width in widths}, store, runtime, board)
    if targets is not None:
        by_width = {width: sorted(set(targets)) for width in widths}
        curves = _sweep(settings, kind, by_width, store, runtime, board)
    else:
        by_width = {width: target_grid(width, d_in) for width in widths}
        curves = _sweep(settings, kind, by_width, store, runtime, board)
        for _ in range(ROUNDS - 1):
            added = {n: [t for c in curves if c.sweep[0].n_latents == n for t in more_targets(c)] for n in widths}
            if not any(added.values()):
                break
            by_width = {n: sorted({*by_width[n], *added[n]}) for n in widths}
            curves = _sweep(settings, kind, by_width, store, runtime, board)
    _write(folder, curves)
    return curves, folder


def _prepare(
    settings: Config, kind: str, targets: Mapping[int, Sequence[int]], store: Store, runtime: Runtime, board: Board
) -> int:
    """Prepares the sources of a sweep, which make their d_in known, and returns the smallest.

    Raises `UserError` where a target is larger.
    """
    steps = plan(_config(settings, kind, targets))
    sources = [step for step in steps if step.stage in ("generate", "stream")]
    runner.run([*(step for step in steps if step.stage == "model"), *sources], store, runtime, board)
    d_in = min(_dimensions(source, store) for source in sources)
    for of_width in targets.values():
        if max(of_width) > d_in:
            raise UserError(
                f"--targets {','.join(map(str, of_width))}: {max(of_width)} is more than the {d_in} dimensions of the "
                f"activations, where no L0 can be told from another; give targets up to {d_in}"
            )
    return d_in


def _dimensions(source: Step, store: Store) -> int:
    return open_checked(source, store.directory(source), "cpu").d_in


def _sweep(
    settings: Config, kind: str, targets: Mapping[int, Sequence[int]], store: Store, runtime: Runtime, board: Board
) -> list[SparsityCurve]:
    """Does the missing steps of a sweep, except its report, and returns its curves."""
    steps = plan(_config(settings, kind, targets))[:-1]
    runner.run(steps, store, runtime, board)
    return list(_curves([step for step in steps if step.stage == "score"], store))


def target_grid(n_latents: int, d_in: int) -> list[int]:
    """Targets spaced evenly in log L0, from 1/32 of the largest to the largest.

    The largest is half the smaller of `n_latents` and `d_in`: denser codes cannot be identified.
    """
    largest = max(min(n_latents, d_in) / 2, min(n_latents, 4))
    return sorted({max(1, round(t)) for t in np.geomspace(max(1.0, largest / 32), largest, N_TARGETS).tolist()})


def more_targets(curve: SparsityCurve) -> list[int]:
    """Targets to add: beyond the end of the sweep where the minimum may be, or around a clear minimum."""
    targets = [round(_target(s)) for s in curve.sweep]
    low, high, suggestion = targets[0], targets[-1], curve.suggestion
    n_latents = curve.sweep[0].n_latents or high
    largest = n_latents if curve.d_in is None else min(n_latents, curve.d_in)
    if suggestion.verdict == "low end":
        return sorted({max(1, round(low / f)) for f in (1.5, 2.2, 3.3)} - set(targets))
    if suggestion.verdict == "high end":
        return sorted({min(largest, round(high * f)) for f in (1.3, 1.7, 2.2)} - set(targets))
    if suggestion.verdict in ("flat", "chance"):
        return []
    below, above = max(t for t in targets if t <= suggestion.low), min(t for t in targets if t >= suggestion.high)
    return sorted({round(t) for t in np.geomspace(below, above, 7).tolist()} - set(targets))


def _config(settings: Config, kind: str, targets: Mapping[int, Sequence[int]]) -> Config:
    """The config of the sweep: the settings of the user's first dictionary of this kind, except its sparsity."""
    try:
        cls = config_class("dictionaries", kind)
    except UserError as error:
        raise UserError(f"--kind: {error}") from None
    assert issubclass(cls, DictionaryConfig)
    target = "k" if issubclass(cls, SelectingConfig) else "l0"
    if target not in cls.model_fields:
        raise UserError(f"--kind {kind}: this kind has no target L0 to sweep over; use batchtopk")
    tables = settings.given.get("dictionary", [])
    tables = tables if isinstance(tables, list) else [tables]
    dictionary = next((table for table in tables if table.get("kind") == kind), {"kind": kind})
    fixed = {name: value for name, value in dictionary.items() if name not in SPARSITY_FIELDS | {"n_latents"}}
    seeds = list(settings.seeds) if len(settings.seeds) > 1 else _SEEDS
    table = {
        "name": settings.name,
        "source": settings.given["source"],
        "dictionary": [{**fixed, "n_latents": width, target: list(values)} for width, values in targets.items()],
        "train": {**settings.given.get("train", {}), "seeds": seeds},
        "score": {"n_rows": settings.n_rows, "metrics": ["reconstruction", "coherence"]},
    }
    return replace(parse(table), runtime=settings.runtime, precisions=settings.precisions)


def _curves(scored: Sequence[Step], store: Store) -> Iterator[SparsityCurve]:
    """One curve for each source, method and width among finished score steps."""
    sweeps: dict[Any, list[Setting]] = {}
    sources = {step.inputs["source"].key: step.inputs["source"] for step in scored}
    d_in = {key: _dimensions(source, store) for key, source in sources.items()}
    for s in settings_of([read_scored_row(store.directory(step)) for step in scored]):
        sweeps.setdefault((s.source, s.label, s.n_latents, s.others), []).append(s)
    for sweep in sweeps.values():
        sweep.sort(key=_target)
        d = d_in[scored[sweep[0].members[0]].inputs["source"].key]
        found = suggest([_target(s) for s in sweep], [s.samples[SCORE] for s in sweep], d)
        yield SparsityCurve(sweep, found, d)


def _target(s: Setting) -> float:
    assert s.target_l0 is not None
    return s.target_l0


def _write(folder: Path, curves: Sequence[SparsityCurve]) -> None:
    """Writes ``suggestion.json`` and a figure of each curve."""
    folder.mkdir(parents=True, exist_ok=True)
    entries: list[dict[str, Any]] = []
    for i, curve in enumerate(curves):
        name = f"suggestion-{i}" if len(curves) > 1 else "suggestion"
        figure = draw_sweep(curve)
        for form in ("svg", "png"):
            write_atomically(folder / f"{name}.{form}", to_bytes(figure, form))
        sweep = [{"target_l0": _target(s), "l0": s.mean("l0"), SCORE: s.samples[SCORE]} for s in curve.sweep]
        true_l0 = curve.true_l0 if math.isfinite(curve.true_l0) else None
        numbers = {k: v if v != math.inf else None for k, v in asdict(curve.suggestion).items()}
        entries.append({"of": curve.title, **numbers, "true_l0": true_l0, "sentence": sentence(curve), "sweep": sweep})
    write_atomically(folder / "suggestion.json", (json.dumps(entries, indent=1) + "\n").encode())


@styled
def draw_sweep(curve: SparsityCurve) -> Figure:
    """Plots decoder_cosine against the target: means with 95% intervals, a dot for each seed, the suggestion with its
    interval shaded, and the true L0 where it is known."""
    figure, (ax,) = canvas(5.6, 4.0)
    colour, marker = marks([curve.sweep[0].label])[curve.sweep[0].label]
    x = np.array([_target(s) for s in curve.sweep])
    mean = np.array([s.mean(SCORE) for s in curve.sweep])
    half = np.array([np.nan_to_num(s.scores[SCORE].half) for s in curve.sweep])
    ax.fill_between(x, (mean - half).clip(min=0), mean + half, color=colour, alpha=0.15, lw=0)
    ax.plot(x, mean, color=colour, marker=marker, ms=5)
    for target, s in zip(x, curve.sweep, strict=True):
        ax.scatter([target] * len(s.samples[SCORE]), s.samples[SCORE], s=9, color=colour, alpha=0.5, linewidths=0)
    ax.set(xscale="log", xlabel="target L0 (active latents per sample)", ylabel=SCORE)
    ax.set_ylim(bottom=0)
    plain_log(ax.xaxis)
    lines: list[tuple[float, str, str]] = []
    minimum = curve.suggestion
    if minimum.l0 is not None:
        ax.axvspan(minimum.low, minimum.high, color=colour, alpha=0.1, lw=0, zorder=0)
        lines.append((minimum.l0, f"suggested {minimum.l0:.3g}", colour))
    if math.isfinite(curve.true_l0):
        lines.append((curve.true_l0, f"true {curve.true_l0:.3g}", FAINT))
    for at, _, ink in lines:
        ax.axvline(at, color=ink, lw=1, ls=(0, (4, 3)), zorder=0)
    # The two lines coincide where the method works, so their labels go to opposite sides.
    sides = ("right", "left") if len(lines) > 1 else ("center",)
    for (at, text, ink), side in zip(sorted(lines), sides, strict=False):
        ax.text(at, 1.015, f" {text} ", color=ink, ha=side, va="bottom", transform=ax.get_xaxis_transform())
    return figure


def sentence(curve: SparsityCurve) -> str:
    """The result of the sweep as one sentence, with what to do where there is none."""
    minimum, known = curve.suggestion, math.isfinite(curve.true_l0)
    first, last = (f"{_target(s):g}" for s in (curve.sweep[0], curve.sweep[-1]))
    truth = f"; the true L0 is {curve.true_l0:.3g}" if known else ""
    if minimum.l0 is not None:
        error = f" ({100 * (minimum.l0 / curve.true_l0 - 1):+.0f}%)" if known else ""
        interval = f"{minimum.low:.3g} to {minimum.high:.3g}"
        seeds = counted(minimum.n_seeds, "seed")
        return f"suggested L0: {minimum.l0:.3g}, interval {interval} from {seeds}{truth}{error}"
    if minimum.verdict == "flat":
        return (
            f"flat: no clear minimum from L0 = {first} to {last} ({SCORE} rises by only {100 * minimum.depth:.1f}% on "
            f"one side, {counted(minimum.n_seeds, 'seed')}), so no L0 is suggested; try more steps or seeds{truth}"
        )
    if minimum.verdict == "chance" and curve.d_in is not None:
        least, chance = min(s.mean(SCORE) for s in curve.sweep), random_cosine(curve.d_in)
        return (
            f"no minimum: {SCORE} is {least:.3g} at its smallest, not well below the {chance:.3g} of "
            f"random directions in {curve.d_in} dimensions, so it says nothing of L0, and none is suggested{truth}"
        )
    end, direction = (first, "lower") if minimum.verdict == "low end" else (last, "higher")
    return f"no minimum: {SCORE} is smallest at the end of the sweep, {end}; add {direction} --targets{truth}"


def print_suggestion(curves: Sequence[SparsityCurve], folder: Path, console: Console) -> None:
    """Prints each curve as a table and a sentence, and the folder with the figures."""
    for curve in curves:
        scores = [name for name in ("l0", SCORE, "fvu", "dead") if math.isfinite(curve.sweep[0].mean(name))]
        columns = [TextColumn("target_l0", [f"{_target(s):g}" for s in curve.sweep], is_right=True)]
        for name in scores:
            columns.append(TextColumn(name, [_score_text(s, name) for s in curve.sweep], is_right=True))
        print_text_table(console, curve.title, columns)
        print_sentence(console, sentence(curve))
    console.print(f"figures: {folder}", markup=False, highlight=False, soft_wrap=True)


def _score_text(s: Setting, name: str) -> str:
    return f"{s.mean(name):.4f} ± {s.scores[name].half:.4f}" if name == SCORE else f"{s.mean(name):.3g}"
