"""Stage `report`: one page, one table of scores, figures as files, and a table for the terminal."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pipelines.report.depth import DepthSection, Hooks, best_sentence, depth_picture, depth_rows, hooks_of
from pipelines.report.findings import judge, no_best
from pipelines.report.findings import sentences as findings
from pipelines.report.gallery import ReportedDictionary, pictures
from pipelines.report.model_card import complete_card
from pipelines.report.page import Section, render
from pipelines.report.picture import ShownFigure, write_pictures
from pipelines.report.probes import (
    SUMMARY,
    answers,
    gather_studies,
    learning_curves,
    probe_tables,
    study_summary,
    write_summaries,
)
from pipelines.report.scores import goodness
from pipelines.report.settings_table import (
    Setting,
    deciding_score,
    read_csv,
    read_scored_row,
    score_numbers,
    settings_of,
    write_csv,
)
from pipelines.report.terminal import print_scores
from pipelines.report.text_table import print_sentence
from pipelines.steps.source_steps import left_out, nonlinear
from pipelines.steps.step import Job, Runtime, StageProgress
from sae.numerics.atomic_write import write_atomically
from sae.probing.summary import Summary
from sae.source import LEFT_OUT

if TYPE_CHECKING:
    from rich.console import Console

VERSION = 6
_MOST_DRAWN = 6
"""Sources for which figures are drawn; further sources of a sweep have only tables."""


def run(jobs: Sequence[Job], scratch: Path, runtime: Runtime, progress: StageProgress) -> Iterator[Job]:
    """Writes ``report.html``, ``scores.csv``, ``figures/*.svg, *.png`` and a copy of the best dictionary, ``best/``,
    where one is the best, to the directory of each job."""
    for i, job in enumerate(jobs):
        progress(i, len(jobs), "reports")
        _report(job)
        yield job


def _report(job: Job) -> None:
    numbers = score_numbers(job.inputs)
    rows = [read_scored_row(job.inputs[f"score.{i}"]) for i in numbers]
    places = [_place(job, i) for i in numbers]
    job.out.mkdir(parents=True, exist_ok=True)
    write_csv(rows, job.out / "scores.csv")

    everything = settings_of(rows)
    score = deciding_score(everything, job.step.config["best_by"])
    sources = list(dict.fromkeys(s.source for s in everything))
    sections: list[Section] = []
    studies, summaries, probe_findings = gather_studies(job), dict[str, Summary](), dict[str, Sequence[str]]()
    for i, source in enumerate(sources):
        settings = [s for s in everything if s.source == source]
        verdict = judge(settings, score)
        if source in studies:
            summaries[source] = study_summary(studies[source], {s.title: s.members for s in settings})
        shown: list[ShownFigure] = []
        if verdict is not None and i < _MOST_DRAWN:
            of_probes = learning_curves(summaries[source], settings, score) if source in summaries else ()
            shown = write_pictures([*pictures(settings, verdict, places), *of_probes], job.out, i, len(sources))
        if verdict is not None and i == 0:
            best = max(verdict.best.members, key=lambda m: goodness(rows[m].scores.get(score, math.nan), score))
            _copy_files(places[best].train / "dictionary", job.out / "best")
            complete_card(job.out / "best", places[best].source, rows[best].scores)
        place = places[settings[0].members[0]].source
        why = nonlinear(place)
        text = [no_best(settings, score)] if verdict is None else findings(settings, verdict, why)
        text = [*text, *_rows_left_out(left_out(place))]
        study = probe_tables(summaries[source], settings, score) if source in summaries else None
        probe_findings[source] = [] if study is None else study.findings
        sections.append(Section(source, text, settings, verdict, shown, study))
    if summaries:
        write_summaries(summaries, probe_findings, job.out / SUMMARY)
    manifests = [_manifest(place.train) for place in places]
    depths = [_depth(hooks, everything, score, job.out, i) for i, hooks in enumerate(_hooks(job, everything, places))]
    page = render(job.step.config, sections, score, manifests, depths)
    (job.out / "report.html").write_text(page, encoding="utf-8")


def _hooks(job: Job, settings: Sequence[Setting], places: Sequence[ReportedDictionary]) -> list[Hooks]:
    """The groups of sources that differ in their hook points only."""
    folder = {s.source: places[s.members[0]].source for s in settings}
    steps = {job.inputs[name]: step for name, step in job.step.inputs.items() if name.startswith("source.")}
    return hooks_of({source: steps[where].config.get("source", {}) for source, where in folder.items()})


def _depth(hooks: Hooks, settings: Sequence[Setting], score: str, out: Path, group: int) -> DepthSection:
    picture = depth_picture(hooks, settings, group)
    shown = [] if picture is None else write_pictures([picture], out, 0, 1)
    return DepthSection(best_sentence(hooks, settings, score), depth_rows(hooks, settings), shown)


def _rows_left_out(card: Mapping[str, Any]) -> list[str]:
    """The sentence on rows that a source leaves out because of their norm; none where it leaves out none."""
    entry = card.get(LEFT_OUT)
    if entry is None:
        return []
    rows = ", ".join(f"{n:,} of {split}" for split, n in entry["rows"].items())
    return [f"Rows of a norm above {entry['norm_limit']:.4g} are left out of training and scoring: {rows}."]


def _copy_files(folder: Path, to: Path) -> None:
    """Copies the files of a folder. Unlike `shutil.copytree`, it names the copy that cannot be written."""
    to.mkdir(exist_ok=True)
    for file in sorted(folder.iterdir()):
        write_atomically(to / file.name, file.read_bytes())


def _place(job: Job, i: int) -> ReportedDictionary:
    """The directories of the i-th dictionary."""
    sources = {step.key: job.inputs[name] for name, step in job.step.inputs.items() if name.startswith("source.")}
    source = job.step.inputs[f"score.{i}"].inputs["source"]
    return ReportedDictionary(sources[source.key], job.inputs[f"train.{i}"], job.inputs[f"score.{i}"])


def _manifest(directory: Path) -> Mapping[str, Any]:
    file = directory / "manifest.json"
    return json.loads(file.read_text()) if file.is_file() else {}


class RankedScores(NamedTuple):
    """The scores on one source, as terminals and notebooks show them."""

    source: str
    """Name of the source."""
    settings: Sequence[Setting]
    """All settings of the source."""
    score: str
    """The score that ranks them."""
    findings: Sequence[str]
    """The most important sentences."""


def report_tables(directory: Path) -> Iterator[RankedScores]:
    """The table of each source in the directory of a finished step."""
    settings = settings_of(read_csv(directory / "scores.csv"))
    score = deciding_score(settings, _manifest(directory).get("config", {}).get("best_by", ""))
    for source in dict.fromkeys(s.source for s in settings):
        of_source = [s for s in settings if s.source == source]
        verdict = judge(of_source, score)
        text = [no_best(of_source, score)] if verdict is None else findings(of_source, verdict)[:3]
        yield RankedScores(source, of_source, score, [*text, *answers(directory, source)])


def print_table(directory: Path, console: Console) -> None:
    """Prints the scores in the directory of a finished step, the best first, and the findings."""
    for table in report_tables(directory):
        print_scores(table.settings, table.score, table.source, console)
        for sentence in table.findings:
            print_sentence(console, sentence)
