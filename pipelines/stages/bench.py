"""Stage `bench`: compares the methods of a suite on several data sets; tables, tests, figures and one page."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.bench.comparison import Comparison, compare_methods
from pipelines.bench.page import render_bench, suite_pictures
from pipelines.bench.pareto import write_frontier
from pipelines.bench.tables import markdown, write_table, write_tests
from pipelines.report.picture import Picture, of_source, write_pictures
from pipelines.report.settings_table import (
    ScoredRow,
    deciding_score,
    read_scored_row,
    score_numbers,
    settings_of,
    write_csv,
)
from pipelines.report.text_table import TextColumn, print_sentence, print_text_table
from pipelines.steps import cost
from pipelines.steps.step import Job, Runtime, StageProgress
from sae.analysis.geometry.consistency import pairwise_mcc
from sae.files import load

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Console

VERSION = 2
_MOST_DRAWN = 9
"""Sources for which figures are drawn."""
SUMMARY = "summary.json"


def run(jobs: Sequence[Job], scratch: Path, runtime: Runtime, progress: StageProgress) -> Iterator[Job]:
    """Writes ``bench.html``, ``scores.csv`` (one row per dictionary), ``table.csv`` (every mean with its intervals),
    ``table.md`` (the main table), ``tests.csv``, ``frontier.csv`` (scores next to costs), ``summary.json`` (what the
    terminal shows) and ``figures/``."""
    for i, job in enumerate(jobs):
        progress(i, len(jobs), "suites")
        _bench(job)
        yield job


def figures_of_comparison(job: Job) -> dict[str, Figure]:
    """The figures of a finished comparison, drawn again from the directories of its inputs, by their paths in
    ``figures/`` without ending."""
    comparisons, found = _comparisons(job, _rows(job)), dict[str, Picture]()
    for i, drawn in enumerate(_drawn(job, comparisons)):
        found |= of_source(drawn, i, len(comparisons))
    return {name: picture.figure for name, picture in found.items()}


def _bench(job: Job) -> None:
    from pipelines.bench.words import comparison_sentences, several

    rows, config = _rows(job), job.step.config
    comparisons = _comparisons(job, rows)
    job.out.mkdir(parents=True, exist_ok=True)
    write_csv(rows, job.out / "scores.csv")
    write_table(comparisons, job.out / "table.csv")
    write_tests(comparisons, job.out / "tests.csv")
    write_frontier(comparisons, job.out / "frontier.csv")
    (job.out / "table.md").write_text(markdown(comparisons), encoding="utf-8")
    n = len(comparisons)
    shown = [write_pictures(drawn, job.out, i, n) for i, drawn in enumerate(_drawn(job, comparisons))]
    (job.out / "bench.html").write_text(render_bench(config, comparisons, shown), encoding="utf-8")
    summary = {
        "sources": [{**_summary(c), "findings": comparison_sentences(c)} for c in comparisons],
        "several": several(comparisons),
        "by": deciding_score(settings_of(rows), config["best_by"]),
    }
    (job.out / SUMMARY).write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")


def _rows(job: Job) -> list[ScoredRow]:
    return [_row(job.inputs[f"score.{i}"], job.inputs[f"train.{i}"]) for i in score_numbers(job.inputs)]


def _comparisons(job: Job, rows: Sequence[ScoredRow]) -> list[Comparison]:
    """The comparison on each source."""
    agreement = _agreement([job.inputs[f"train.{i}"] for i in score_numbers(job.inputs)])
    settings, config = settings_of(rows), job.step.config
    by = deciding_score(settings, config["best_by"])
    return [
        compare_methods(source, [s for s in settings if s.source == source], rows, by, config["bench"]["l0"], agreement)
        for source in dict.fromkeys(s.source for s in settings)
    ]


def _drawn(job: Job, comparisons: Sequence[Comparison]) -> Iterator[Iterable[Picture]]:
    """The figures of each source."""
    for i, c in enumerate(comparisons):
        yield suite_pictures(c, job.step.config["published"]) if i < _MOST_DRAWN else ()


def _row(score: Path, train: Path) -> ScoredRow:
    """Identity and scores of one dictionary, with its training cost on this machine."""
    row, spent = read_scored_row(score), cost.read_cost(train)
    return ScoredRow(row.identity, {**row.scores, "seconds": spent.seconds, "bytes": float(spent.bytes)})


def _agreement(directories: Sequence[Path]) -> Callable[[Sequence[int]], float]:
    """The `pw_mcc` of dictionaries, given the indices of their rows; each group is loaded once."""

    @cache
    def of(members: tuple[int, ...]) -> float:
        return pairwise_mcc([load(directories[i]).W_dec.float() for i in members]) if len(members) > 1 else math.nan

    return lambda members: of(tuple(members))


def _summary(c: Comparison) -> dict[str, Any]:
    """What the terminal shows of one source."""
    from pipelines.bench.tables import bench_cell, present

    names = present(c, [n for n in dict.fromkeys(("l0", c.by, "f1", "f1_macro", "recovered_90", "explained_variance"))])
    lines = [
        {
            "method": e.family.label,
            "ceiling": e.family.first.is_ceiling(c.by),
            "where": e.where,
            "cells": [list(bench_cell(n, e.groups.get(n, []))[:2]) for n in names],
            "p": next(
                (t.p_holm for t in c.tests if t.entry is e and t.score == c.by and math.isfinite(t.p_holm)), None
            ),
        }
        for e in c.entries
    ]
    return {"source": c.source, "n_data": c.n_data, "names": names, "lines": lines}


def print_bench_table(directory: Path, console: Console) -> None:
    """Prints the tables and findings of a finished step."""
    summary = json.loads((directory / SUMMARY).read_text())
    for one in summary["sources"]:
        print_text_table(console, one["source"], _text_columns(one, summary["by"]), "table.csv")
        data = f"means over {one['n_data']} data sets" if one["n_data"] > 1 else "means over the seeds of one data set"
        note = f"{data} with 95% intervals; p: paired test against the best method by {summary['by']}; * ceiling"
        print_sentence(console, note, style="dim")
        for sentence in one["findings"]:
            print_sentence(console, sentence)
    if summary["several"]:
        print_sentence(console, summary["several"])


def _text_columns(one: Mapping[str, Any], by: str) -> list[TextColumn]:
    """The table of one source on a terminal; the score that ranks the methods and its test are always shown."""
    from rich.markup import escape

    from pipelines.bench.tables import p_value

    lines = one["lines"]
    marked = [escape(line["method"]) + (" *" if line["ceiling"] else "") for line in lines]
    columns = [
        TextColumn("method", marked, is_text=True, is_kept=True),
        TextColumn("penalty", [escape(line["where"]) for line in lines], is_text=True, is_kept=True),
    ]
    for i, name in enumerate(one["names"]):
        cells = [f"{text} [dim]{escape(interval)}[/]" for text, interval in (line["cells"][i] for line in lines)]
        columns.append(TextColumn(name, cells, is_kept=name == by))
    tests = ["" if line["p"] is None else p_value(line["p"]) for line in lines]
    return [*columns, TextColumn("p", tests, is_kept=True, is_right=True)]
