"""Stage `bench`: the methods of a suite compared on several data sets; tables, tests, figures and one page."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.bench.comparison import Comparison, compare_methods
from pipelines.bench.page import drawn, render_bench
from pipelines.bench.tables import markdown, write_table, write_tests
from pipelines.report.settings_table import ScoredRow, decided_by, settings_of, write_csv
from pipelines.report.style import to_bytes
from pipelines.steps import cost
from pipelines.steps.step import Job, Runtime, Tell
from sae.analysis.geometry.consistency import pairwise_mcc
from sae.files import load

if TYPE_CHECKING:
    from rich.console import Console

VERSION = 1
_MOST_DRAWN = 9
"""Sources for which figures are drawn."""
SUMMARY = "summary.json"


def run(jobs: Sequence[Job], scratch: Path, runtime: Runtime, tell: Tell) -> Iterator[Job]:
    """Leaves ``bench.html``, ``scores.csv`` (a row a dictionary), ``table.csv`` (every mean with its intervals),
    ``table.md`` (to cite), ``tests.csv``, ``summary.json`` (what the terminal shows) and ``figures/``."""
    for i, job in enumerate(jobs):
        tell(i, len(jobs), "suites")
        _bench(job)
        yield job


def _bench(job: Job) -> None:
    from pipelines.bench.words import comparison_sentences, several

    numbers = sorted(int(name.removeprefix("score.")) for name in job.inputs if name.startswith("score."))
    rows = [_row(job.inputs[f"score.{i}"], job.inputs[f"train.{i}"]) for i in numbers]
    agreement = _agreement([job.inputs[f"train.{i}"] for i in numbers])
    settings, config = settings_of(rows), job.step.config
    by = decided_by(settings, config["best_by"])
    comparisons = [
        compare_methods(source, [s for s in settings if s.source == source], rows, by, config["bench"]["l0"], agreement)
        for source in dict.fromkeys(s.source for s in settings)
    ]
    job.out.mkdir(parents=True, exist_ok=True)
    write_csv(rows, job.out / "scores.csv")
    write_table(comparisons, job.out / "table.csv")
    write_tests(comparisons, job.out / "tests.csv")
    (job.out / "table.md").write_text(markdown(comparisons), encoding="utf-8")
    svgs = [_draw(c, config["published"], job.out, i, len(comparisons)) for i, c in enumerate(comparisons)]
    (job.out / "bench.html").write_text(render_bench(config, comparisons, svgs), encoding="utf-8")
    summary = {
        "sources": [{**_summary(c), "findings": comparison_sentences(c)} for c in comparisons],
        "several": several(comparisons),
        "by": by,
    }
    (job.out / SUMMARY).write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")


def _row(score: Path, made: Path) -> ScoredRow:
    """One dictionary's identity and scores, with what it cost on this machine."""
    content, spent = json.loads((score / "scores.json").read_text()), cost.read_cost(made)
    scores = {k: math.nan if v is None else float(v) for k, v in content["scores"].items()}
    return ScoredRow(content["row"], {**scores, "seconds": spent.seconds, "bytes": float(spent.bytes)})


def _agreement(directories: Sequence[Path]) -> Callable[[Sequence[int]], float]:
    """The agreement of dictionaries by the indices of their rows; each is read once."""

    @cache
    def of(members: tuple[int, ...]) -> float:
        return pairwise_mcc([load(directories[i]).W_dec.float() for i in members]) if len(members) > 1 else math.nan

    return lambda members: of(tuple(members))


def _draw(c: Comparison, published: Sequence[Mapping[str, Any]], out: Path, i: int, n: int) -> dict[str, str]:
    """The figures of one source, as files and for the page."""
    svgs: dict[str, str] = {}
    folder = out / "figures" / (f"source-{i}" if n > 1 else "")
    for shown in drawn(c, published) if i < _MOST_DRAWN else ():
        folder.mkdir(parents=True, exist_ok=True)
        svg = to_bytes(shown.figure, "svg")
        (folder / f"{shown.name}.svg").write_bytes(svg)
        (folder / f"{shown.name}.png").write_bytes(to_bytes(shown.figure, "png"))
        svgs[shown.name] = svg.decode()
    return svgs


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
    """Prints the comparison in the directory of a finished step, and what it says."""
    from rich.markup import escape
    from rich.table import Table

    from pipelines.bench.tables import p_value

    summary = json.loads((directory / SUMMARY).read_text())
    for one in summary["sources"]:
        room = max(2, (console.width - 44) // 19)
        table = Table(title=one["source"], title_justify="left", title_style="italic", box=None, pad_edge=False)
        table.add_column("method", overflow="fold", min_width=16)
        table.add_column("read at", overflow="fold", style="dim")
        for name in one["names"][:room]:
            table.add_column(name, no_wrap=True)
        table.add_column("p", justify="right")
        for line in one["lines"]:
            mark = " *" if line["ceiling"] else ""
            texts = [f"{text} [dim]{escape(interval)}[/]" for text, interval in line["cells"][:room]]
            p = "" if line["p"] is None else p_value(line["p"])
            table.add_row(escape(line["method"]) + mark, line["where"], *texts, p)
        console.print(table)
        data = f"means over {one['n_data']} data sets" if one["n_data"] > 1 else "means over the seeds of one data set"
        note = f"{data} with 95% intervals; p: paired test against the best by {summary['by']}; * ceiling"
        console.print(note, style="dim", markup=False, highlight=False)
        for sentence in one["findings"]:
            console.print(sentence, markup=False, highlight=False)
    if summary["several"]:
        console.print(summary["several"], markup=False, highlight=False)
