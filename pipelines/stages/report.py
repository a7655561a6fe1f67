"""Stage `report`: one page, one table of scores, the figures as files, and a table for the terminal."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.report.findings import judge
from pipelines.report.findings import sentences as findings
from pipelines.report.gallery import Picture, ReportedDictionary, pictures
from pipelines.report.model_card import complete_card
from pipelines.report.page import Section, ShownFigure, render
from pipelines.report.probes import SUMMARY, answers, gather_studies, learning, probes_of, summarised, write_summaries
from pipelines.report.scores import goodness
from pipelines.report.settings_table import ScoredRow, decided_by, read_csv, settings_of, write_csv
from pipelines.report.style import to_bytes
from pipelines.steps.source_steps import nonlinear
from pipelines.steps.step import Job, Runtime, Tell
from sae.probing.summary import Summary

if TYPE_CHECKING:
    from rich.console import Console

VERSION = 5
_MOST_DRAWN = 6
"""Sources for which figures are drawn; a larger sweep over sources has the tables alone for the rest."""


def run(jobs: Sequence[Job], scratch: Path, runtime: Runtime, tell: Tell) -> Iterator[Job]:
    """Leaves ``report.html``, ``scores.csv``, ``figures/*.svg, *.png`` and a copy of the best dictionary, ``best/``,
    in every job's directory."""
    for i, job in enumerate(jobs):
        tell(i, len(jobs), "reports")
        _report(job)
        yield job


def _report(job: Job) -> None:
    numbers = sorted(int(name.removeprefix("score.")) for name in job.inputs if name.startswith("score."))
    rows = [_row(job.inputs[f"score.{i}"] / "scores.json") for i in numbers]
    places = [_place(job, i) for i in numbers]
    job.out.mkdir(parents=True, exist_ok=True)
    write_csv(rows, job.out / "scores.csv")

    everything = settings_of(rows)
    score = decided_by(everything, job.step.config["best_by"])
    sources = list(dict.fromkeys(s.source for s in everything))
    sections: list[Section] = []
    probed, summaries, said = gather_studies(job), dict[str, Summary](), dict[str, Sequence[str]]()
    for i, source in enumerate(sources):
        settings = [s for s in everything if s.source == source]
        verdict = judge(settings, score)
        if source in probed:
            summaries[source] = summarised(probed[source], {s.title: s.members for s in settings})
        shown: list[ShownFigure] = []
        if verdict is not None and i < _MOST_DRAWN:
            folder = job.out / "figures" / (f"source-{i}" if len(sources) > 1 else "")
            folder.mkdir(parents=True, exist_ok=True)
            studied = learning(summaries[source], settings, score) if source in summaries else ()
            for picture in [*pictures(settings, verdict, places), *(Picture(*one) for one in studied)]:
                svg = to_bytes(picture.figure, "svg")
                (folder / f"{picture.name}.svg").write_bytes(svg)
                (folder / f"{picture.name}.png").write_bytes(to_bytes(picture.figure, "png"))
                shown.append(ShownFigure(picture.name, picture.title, picture.caption, svg.decode()))
        if verdict is not None and i == 0:
            best = max(verdict.best.members, key=lambda m: goodness(rows[m].scores.get(score, math.nan), score))
            shutil.copytree(places[best].train / "dictionary", job.out / "best", dirs_exist_ok=True)
            complete_card(job.out / "best", places[best].source, rows[best].scores)
        why = nonlinear(places[settings[0].members[0]].source)
        told = [] if verdict is None else findings(settings, verdict, why)
        study = probes_of(summaries[source], settings, score) if source in summaries else None
        said[source] = [] if study is None else study.findings
        sections.append(Section(source, told, settings, verdict, shown, study))
    if summaries:
        write_summaries(summaries, said, job.out / SUMMARY)
    manifests = [_manifest(place.train) for place in places]
    (job.out / "report.html").write_text(render(job.step.config, sections, score, manifests), encoding="utf-8")


def _row(file: Path) -> ScoredRow:
    """One dictionary's identity and scores; a score that is undefined is null in the file."""
    content = json.loads(file.read_text())
    return ScoredRow(content["row"], {k: math.nan if v is None else float(v) for k, v in content["scores"].items()})


def _place(job: Job, i: int) -> ReportedDictionary:
    sources = {step.key: job.inputs[name] for name, step in job.step.inputs.items() if name.startswith("source.")}
    source = job.step.inputs[f"score.{i}"].inputs["source"]
    return ReportedDictionary(sources[source.key], job.inputs[f"train.{i}"], job.inputs[f"score.{i}"])


def _manifest(directory: Path) -> Mapping[str, Any]:
    file = directory / "manifest.json"
    return json.loads(file.read_text()) if file.is_file() else {}


def print_table(directory: Path, console: Console) -> None:
    """Prints the scores of a report's directory, the best first, and what they say."""
    from pipelines.report.terminal import footnote, score_table

    settings = settings_of(read_csv(directory / "scores.csv"))
    score = decided_by(settings, _manifest(directory).get("config", {}).get("best_by", ""))
    for source in dict.fromkeys(s.source for s in settings):
        own = [s for s in settings if s.source == source]
        table = score_table(own, score, source, console.width)
        console.print(table)
        console.print(footnote(own, score, table.row_count), style="dim", markup=False, highlight=False)
        verdict = judge(own, score)
        told = [] if verdict is None else findings(own, verdict)[:3]
        for sentence in [*told, *answers(directory, source)]:
            console.print(sentence, markup=False, highlight=False)
