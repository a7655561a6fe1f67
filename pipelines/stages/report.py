"""Stage `report`: one page, one table of scores, figures as files, and a table for the terminal."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pipelines.report.depth import DepthSection, Hooks, best_sentence, depth_picture, depth_rows, hooks_of
from pipelines.report.findings import Verdict, judge, no_best
from pipelines.report.findings import sentences as findings
from pipelines.report.gallery import ReportedDictionary, pictures
from pipelines.report.model_card import complete_card
from pipelines.report.page import Section, render
from pipelines.report.picture import Picture, of_source, write_pictures
from pipelines.report.probes import (
    SUMMARY,
    StudyResults,
    answers,
    gather_studies,
    learning_curves,
    probe_tables,
    study_summary,
    write_studies,
    write_summaries,
)
from pipelines.report.scores import goodness
from pipelines.report.settings_table import (
    ScoredRow,
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
    from matplotlib.figure import Figure
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


@dataclass(frozen=True)
class _Dictionaries:
    """The scored dictionaries of a report, from the directories of its inputs."""

    rows: Sequence[ScoredRow]
    """Identity and scores of each."""
    places: Sequence[ReportedDictionary]
    """The directories of each."""
    settings: Sequence[Setting]
    """Their settings, on all sources."""
    score: str
    """The score that ranks them."""
    studies: Mapping[str, StudyResults]
    """The probe studies, by source."""

    @classmethod
    def of(cls, job: Job) -> _Dictionaries:
        numbers = score_numbers(job.inputs)
        rows = [read_scored_row(job.inputs[f"score.{i}"]) for i in numbers]
        settings = settings_of(rows)
        score = deciding_score(settings, job.step.config["best_by"])
        return cls(rows, [_place(job, i) for i in numbers], settings, score, gather_studies(job))

    def sources(self) -> list[_OfSource]:
        """What there is to show of each source."""
        found: list[_OfSource] = []
        for i, source in enumerate(dict.fromkeys(s.source for s in self.settings)):
            settings = [s for s in self.settings if s.source == source]
            study, members = self.studies.get(source), {s.title: s.members for s in settings}
            summary = None if study is None else study_summary(study, members)
            found.append(_OfSource(source, settings, judge(settings, self.score), summary, is_drawn=i < _MOST_DRAWN))
        return found

    def drawn(self, of: _OfSource) -> list[Picture]:
        """The figures of a source."""
        if of.verdict is None or not of.is_drawn:
            return []
        of_probes = [] if of.study is None else learning_curves(of.study, of.settings, self.score)
        return [*pictures(of.settings, of.verdict, self.places), *of_probes]


class _OfSource(NamedTuple):
    """The part of a report on one source."""

    name: str
    settings: Sequence[Setting]
    verdict: Verdict | None
    study: Summary | None
    is_drawn: bool


def figures_of_report(job: Job) -> dict[str, Figure]:
    """The figures of a finished report, drawn again from the directories of its inputs, by their paths in ``figures/``
    without ending."""
    everything = _Dictionaries.of(job)
    sources, found = everything.sources(), dict[str, Picture]()
    for i, of in enumerate(sources):
        found |= of_source(everything.drawn(of), i, len(sources))
    for i, hooks in enumerate(_hooks(job, everything.settings, everything.places)):
        picture = depth_picture(hooks, everything.settings, i)
        found |= {} if picture is None else of_source([picture], 0, 1)
    return {name: picture.figure for name, picture in found.items()}


def _report(job: Job) -> None:
    everything = _Dictionaries.of(job)
    rows, places, score = everything.rows, everything.places, everything.score
    job.out.mkdir(parents=True, exist_ok=True)
    write_csv(rows, job.out / "scores.csv")
    write_studies(job)

    sections: list[Section] = []
    sources, probe_findings = everything.sources(), dict[str, Sequence[str]]()
    for i, of in enumerate(sources):
        shown = write_pictures(everything.drawn(of), job.out, i, len(sources))
        if of.verdict is not None and i == 0:
            best = max(of.verdict.best.members, key=lambda m: goodness(rows[m].scores.get(score, math.nan), score))
            _copy_files(places[best].train / "dictionary", job.out / "best")
            complete_card(job.out / "best", places[best].source, rows[best].scores)
        place = places[of.settings[0].members[0]].source
        why = nonlinear(place)
        text = [no_best(of.settings, score)] if of.verdict is None else findings(of.settings, of.verdict, why)
        text = [*text, *_rows_left_out(left_out(place))]
        study = probe_tables(of.study, of.settings, score) if of.study is not None else None
        probe_findings[of.name] = [] if study is None else study.findings
        sections.append(Section(of.name, text, of.settings, of.verdict, shown, study))
    if summaries := {of.name: of.study for of in sources if of.study is not None}:
        write_summaries(summaries, probe_findings, job.out / SUMMARY)
    manifests = [_manifest(place.train) for place in places]
    hooks = _hooks(job, everything.settings, places)
    depths = [_depth(one, everything.settings, score, job.out, i) for i, one in enumerate(hooks)]
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
