"""Probe studies in the report: a CSV file of all results, a summary, tables of the page, and a figure."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pipelines.report.picture import Picture
from pipelines.report.settings_table import IDENTITY, Setting, best_per_method
from pipelines.report.style import FAINT, INK, canvas, label_ends, plain_log, styled
from pipelines.steps.step import Job
from sae.numerics.statistics import Estimate
from sae.probing import ProbeResult, read_results, summary
from sae.probing.quiver import is_control
from sae.probing.summary import Condition, QuiverComparison, Summary

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_SHOWN = 4
"""Largest number of dictionaries in the tables of the page; the files have all of them."""
FILE, SUMMARY = "probes.csv", "probes.json"
CURVES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")


@dataclass
class StudyResults:
    """The results of a probe study on one source."""

    raw: list[ProbeResult] = field(default_factory=list[ProbeResult])
    """Probes on the activations, over all data seeds."""
    of_dictionary: dict[int, list[ProbeResult]] = field(default_factory=dict[int, list[ProbeResult]])
    """Probes on the latents of each dictionary, by the dictionary's number."""


def gather_studies(job: Job) -> dict[str, StudyResults]:
    """The results of the probe steps among a report's inputs, by source."""
    studies: dict[str, StudyResults] = {}
    seeds = {step.config["row"]["data_seed"] for name, step in job.step.inputs.items() if name.startswith("probes.")}
    for name, step in job.step.inputs.items():
        kind, _, number = name.partition(".")
        if kind not in ("probes", "probe"):
            continue
        row = step.config["row"]
        results = read_results(job.inputs[name] / FILE)
        if len(seeds) > 1:  # features with the same number differ between the data seeds of a source
            results = [r._replace(task=f"{r.task} (data_seed {row['data_seed']})") for r in results]
        study = studies.setdefault(row["source"], StudyResults())
        if kind == "probes":
            study.raw += results
        else:
            study.of_dictionary[int(number)] = results
    return studies


def write_studies(job: Job) -> None:
    """Writes all results of the probe steps among a report's inputs as ``probes.csv``, where there are any."""
    rows: list[list[Any]] = []
    for name, step in job.step.inputs.items():
        if name.partition(".")[0] in ("probes", "probe"):
            row = step.config["row"]
            identity = ["" if row.get(column) is None else row[column] for column in IDENTITY]
            results = read_results(job.inputs[name] / FILE)
            rows += [[*identity, *("" if v != v else v for v in result)] for result in results]
    if rows:
        renamed = {"method": "probe", "seed": "draw"}
        _write(job.out / FILE, [*IDENTITY, *(renamed.get(name, name) for name in ProbeResult._fields)], rows)


def _write(file: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    with file.open("w", newline="", encoding="utf-8") as out:
        csv.writer(out, lineterminator="\n").writerows([header, *rows])


def study_summary(study: StudyResults, settings: Mapping[str, Sequence[int]]) -> Summary:
    """The summary of a source; `settings` maps the title of each setting to the numbers of its dictionaries."""
    of_settings = {title: [study.of_dictionary[i] for i in members] for title, members in settings.items()}
    return summary(study.raw, of_settings)


def write_summaries(summaries: Mapping[str, Summary], findings: Mapping[str, Sequence[str]], file: Path) -> None:
    """Writes summaries and findings as JSON; undefined numbers are null."""
    content = {source: {"answers": findings[source], **_plain(study)} for source, study in summaries.items()}
    file.write_text(json.dumps(content, indent=1) + "\n")


def answers(directory: Path, source: str) -> list[str]:
    """The findings of the probe study on a source, from a report's directory; empty without a study."""
    file = directory / SUMMARY
    return json.loads(file.read_text()).get(source, {}).get("answers", []) if file.is_file() else []


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Estimate):
        return _plain(dataclasses.asdict(value))
    if hasattr(value, "_asdict"):
        return {name: _plain(entry) for name, entry in value._asdict().items()}
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value


class _Row(NamedTuple):
    """A line of the page's tables."""

    names: Sequence[str]
    """What the line is about."""
    cells: Sequence[str]
    """Its numbers as text."""
    is_control: bool = False
    """Whether it is a control."""


class ProbeTables(NamedTuple):
    """The part of the page on a probe study."""

    findings: Sequence[str]
    """Sentences, one per dictionary."""
    regimes: Sequence[str]
    """Columns of `outcomes`."""
    outcomes: Sequence[_Row]
    """Test AUC of every probe in each regime."""
    columns: Sequence[str]
    """Columns of `helps`."""
    helps: Sequence[_Row]
    """The effect of adding the probes on a dictionary, for each dictionary and regime."""


def probe_tables(study: Summary, settings: Sequence[Setting], score: str) -> ProbeTables:
    """The tables and findings of a study for the dictionaries that the page shows."""
    shown = shown_dictionaries(settings, score)
    regimes, outcomes = outcome_rows(study, shown)
    return ProbeTables(_sentences(study, shown), regimes, outcomes, HELP, help_rows(study, shown))


def shown_dictionaries(settings: Sequence[Setting], score: str) -> list[str]:
    """The titles of the dictionaries that the page shows: the best of each trained method."""
    best = best_per_method(settings, score)
    return [s.title for s in [s for s in best if not s.is_baseline][:MOST_SHOWN] or best[:1]]


def outcome_rows(study: Summary, shown: Sequence[str]) -> tuple[list[str], list[_Row]]:
    """The regimes, and the mean test AUC of every probe in each of them over all levels."""
    regimes = _regimes(study)
    rows: dict[tuple[str, str], dict[str, Estimate]] = {}
    for o in study.outcomes:
        if o.condition.level is None and o.setting in ("", *shown):
            rows.setdefault((o.setting, o.method), {})[o.condition.regime] = o.auc
    lines = [
        _Row((setting or "activations", method), [_estimate(by_regime.get(r)) for r in regimes], is_control(method))
        for (setting, method), by_regime in rows.items()
    ]
    return regimes, lines


def help_rows(study: Summary, shown: Sequence[str]) -> list[_Row]:
    """The effect of adding the probes on each dictionary, in each regime."""
    return [_help_row(h) for h in study.helps if h.condition.level is None and h.setting in shown]


HELP = ("without", "with", "alone", "with - without", "p (Wilcoxon)", "d_z", "won-lost-tied", "chosen", "no validation")


def _help_row(h: QuiverComparison) -> _Row:
    a = h.added
    cells = [_estimate(h.without), _estimate(h.joined), _estimate(h.own), _signed(a.difference, a.half)]
    cells += [_number(a.wilcoxon_p), _number(a.d_z), f"{a.wins}-{a.losses}-{a.ties}"]
    return _Row((h.setting, h.condition.regime), [*cells, f"{h.taken:.0%}", f"{h.unvalidated:.0%}"])


def _sentences(study: Summary, shown: Sequence[str]) -> list[str]:
    """One finding per dictionary, for the first regime."""
    regime = _regimes(study)[0]
    return [
        f"Probes in the {regime} regime: adding those on {h.setting} changes the AUC of the probe with the best "
        f"validation AUC from {h.without.mean:.3f} by {_signed(h.added.difference, h.added.half)}, over {h.added.n} "
        f"tasks (Wilcoxon p = {_number(h.added.wilcoxon_p)}); the best of them alone differs from {_reference(study)} "
        f"by {_signed(h.alone.difference, h.alone.half)}."
        for h in study.helps
        if h.condition == Condition(regime, None) and h.setting in shown
    ]


def _reference(study: Summary) -> str:
    return next(o.method for o in study.outcomes if not o.setting)


def _regimes(study: Summary) -> list[str]:
    return list(dict.fromkeys(o.condition.regime for o in study.outcomes))


def _estimate(e: Estimate | None) -> str:
    if e is None or not e.n:
        return ""
    return f"{e.mean:.3f}" + (f" ± {e.half:.3f}" if math.isfinite(e.half) else "")


def _signed(mean: float, half: float) -> str:
    return f"{mean:+.4f}" + (f" ± {half:.4f}" if math.isfinite(half) else "")


def _number(value: float) -> str:
    return f"{value:.2g}" if math.isfinite(value) else "undefined"


def learning_curves(study: Summary, settings: Sequence[Setting], score: str) -> Iterator[Picture]:
    """The figure of AUC against the number of training samples, if the study varied it."""
    best = shown_dictionaries(settings, score)[0]
    figure = draw_learning_curves(study, best)
    caption = (
        "Means over tasks with 95% intervals. Chosen: the probe with the best validation AUC among those on the "
        f"activations, without and with the probes on {best}. Dashed: controls."
    )
    if figure is not None:
        yield Picture("probe-rows", "How many samples a probe needs", caption, figure)


@styled
def draw_learning_curves(study: Summary, setting: str) -> Figure | None:
    """Test AUC against the number of training samples, with 95% intervals over tasks."""
    lines = _curves(study, setting)
    if not lines or len(next(iter(lines.values()))) < 2:
        return None
    figure, (ax,) = canvas(6.4, 4.0)
    ends: list[tuple[float, float, str, str]] = []
    fair = iter(CURVES)
    for name, points in lines.items():
        colour = FAINT if is_control(name) else INK if name == _reference(study) else next(fair, INK)
        n, mean = np.array(list(points)), np.array([e.mean for e in points.values()])
        half = np.nan_to_num([e.half for e in points.values()])
        style = (0, (4, 3)) if is_control(name) else "-"
        ax.fill_between(n, mean - half, mean + half, color=colour, alpha=0.12, lw=0)
        ax.plot(n, mean, color=colour, ls=style, marker="o", ms=3)
        ends.append((n[-1], mean[-1], name, colour))
    ax.set(xscale="log", xlabel="training samples, half of them positive", ylabel="test AUC, mean over tasks")
    ax.set_ylim(min(0.45, *(e.mean for points in lines.values() for e in points.values())) - 0.02, 1.02)
    plain_log(ax.xaxis)
    label_ends(ax, ends)
    return figure


def _curves(study: Summary, setting: str) -> dict[str, dict[float, Estimate]]:
    sparse = [o.method for o in study.outcomes if o.setting == setting and o.method[1:].isdigit()]
    middle = sorted(set(sparse), key=lambda m: int(m[1:]))[len(set(sparse)) // 2] if sparse else ""
    shown = {("", _reference(study)), ("", "shuffled"), (setting, middle), (setting, f"untrained_{middle}")}
    lines: dict[str, dict[float, Estimate]] = {}

    def put(name: str, condition: Condition, value: Estimate) -> None:
        if condition.regime == "scarcity" and condition.level is not None and value.n:
            lines.setdefault(name, {})[condition.level] = value

    for o in study.outcomes:
        if (o.setting, o.method) in shown:
            put(o.method, o.condition, o.auc)
    for h in study.helps:
        if h.setting == setting:
            put("chosen, without", h.condition, h.without)
            put("chosen, with", h.condition, h.joined)
    return lines
