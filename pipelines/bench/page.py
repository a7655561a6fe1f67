"""The page of a suite: one self-contained file with tables, paired tests, figures and published results."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pipelines.bench import figures
from pipelines.bench.comparison import SECOND_SCORE, Comparison, Test
from pipelines.bench.cost_figure import draw_score_against_cost
from pipelines.bench.families import Entry
from pipelines.bench.pareto import COSTS, CostedEntry, compared_scores, costed_entries, without_cost
from pipelines.bench.tables import (
    CANONICAL,
    BenchCell,
    bench_cells,
    best_of,
    count_text,
    interval,
    p_value,
    present,
)
from pipelines.bench.words import comparison_sentences, several
from pipelines.report.numbers import number
from pipelines.report.page import families, first_paragraph, inline, template_environment, toml
from pipelines.report.picture import Picture, ShownFigure
from pipelines.report.scores import ordered_scores, score_of
from pipelines.steps.manifest import versions
from sae.numerics.paired_tests import Parts
from sae.registry import kinds


class EntryLine(NamedTuple):
    """An entry as a line of a table."""

    entry: Entry
    """The entry."""
    note: str
    """``ceiling``, ``baseline`` or nothing."""
    cells: Sequence[BenchCell]
    """One cell for each score."""


def suite_pictures(c: Comparison, published: Sequence[Mapping[str, Any]]) -> Iterator[Picture]:
    """The figures of one source for which there are data."""
    for score in dict.fromkeys((c.by, SECOND_SCORE, "explained_variance")):
        figure = figures.draw_sweep_curves(c, score)
        if figure is not None:
            caption = (
                "Mean over data sets with its 95% band; each dot is one dictionary. A curve covers the L0 that every "
                "seed of the sweep reaches."
            )
            yield Picture(f"frontier-{score}", f"{score} against L0", caption, figure)
    for score in dict.fromkeys((c.by, SECOND_SCORE)):
        known = [(row["method"], row["scores"][score]) for row in published if score in row["scores"]]
        figure = figures.draw_dictionaries(c, score, known)
        if figure is not None:
            caption = (
                "Each dot is one dictionary; the dots of a data set are at one height. The vertical stroke is the "
                "mean, the line its 95% interval."
            )
            caption += " Hollow marks are values that papers report, for other data and budgets." if known else ""
            yield Picture(f"seeds-{score}", f"{score} of every dictionary", caption, figure)
    for stem, title in (("mmcs_decile_", "cosine of the best latent"), ("f1_decile_", "F1 of the matched latent")):
        figure = figures.draw_deciles(c, stem, title)
        if figure is not None:
            caption = "Means over data sets with 95% intervals. Dashed: random directions, and methods that know the "
            yield Picture(stem.rstrip("_"), f"Recovery by frequency: {title}", f"{caption}true features.", figure)
    figure = figures.draw_cost(c, c.by)
    if figure is not None:
        caption = "Up and to the left is better. The dashed line is the ceiling."
        yield Picture("cost-rows", f"{c.by} against training samples", caption, figure)
    figure = draw_score_against_cost(c)
    if figure is not None:
        caption = (
            "Each method at the penalty chosen by " + c.by + ", with the intervals of the table; numbers are in the "
            "order of the table. Up and to the left is better. Ceilings are dashed, with their numbers at the right; "
            "controls, which fit nothing, are grey. Marks of the same cost stand side by side. "
        )
        yield Picture("pareto", "Recovery against cost", caption + _left_out(c), figure)


def _left_out(c: Comparison) -> str:
    """Which methods are not in the figure of costs, and why."""
    missing = {what: [e.family.label for e in without_cost(c, cost)] for cost, what in COSTS.items()}
    texts = [f"{', '.join(names)} (zero or unknown: {what})" for what, names in missing.items() if names]
    return f"Left out: {'; '.join(texts)}." if texts else ""


def _fronts(c: Comparison) -> list[tuple[str, str, list[tuple[str, CostedEntry]]]]:
    """For each cost and score, the methods that no other beats for less, the cheapest first, with their cost as
    text."""
    text = {"train_flops": count_text, "encoder_cost": number}
    fronts = [
        (score, what, [(text[cost](p.cost), p) for p in costed_entries(c, score, cost) if p.on_front])
        for cost, what in COSTS.items()
        for score in compared_scores(c)
    ]
    return [front for front in fronts if front[2]]


def render_bench(
    config: Mapping[str, Any], comparisons: Sequence[Comparison], shown: Sequence[Sequence[ShownFigure]]
) -> str:
    """The page. `config` is that of the bench step; `shown` has the figures of each source."""
    templates = template_environment(number=number, interval=interval, p=p_value, count=count_text)
    names = ordered_scores({n for c in comparisons for e in c.entries for n in e.groups})
    return templates.get_template("bench.html").render(
        config=config,
        sections=[_section(c, shown_of, i) for i, (c, shown_of) in enumerate(zip(comparisons, shown, strict=True))],
        several=several(comparisons),
        by=config["best_by"],
        known={name: score_of(name) for name in names},
        facts=_facts(comparisons),
        methods=_methods(comparisons),
        families=families(names),
        published=config["published"],
        published_scores=ordered_scores({n for row in config["published"] for n in row["scores"]}),
        toml=toml(config["config"]),
        versions=versions(),
    )


def _section(c: Comparison, shown: Sequence[ShownFigure], i: int) -> dict[str, Any]:
    names = present(c, list(dict.fromkeys((c.by, *CANONICAL))))
    everything = [n for n in ordered_scores({n for e in c.entries for n in e.groups}) if present(c, [n])]
    matched = [n for n in names if n != "true_l0" and any(n in e.groups for e in c.matched)]
    return {
        "about": c,
        "findings": comparison_sentences(c),
        "names": names,
        "lines": _lines(c, c.entries, names),
        "everything": everything,
        "all": _lines(c, c.entries, everything),
        "matched_names": matched,
        "matched": _lines(c, c.matched, matched),
        "areas": sorted(c.area.items(), key=lambda pair: -math.inf if math.isnan(pair[1].mean) else -pair[1].mean),
        "tests": [(score, _tests(c, score)) for score in dict.fromkeys(t.score for t in c.tests)],
        "spread": _spread(c),
        "fronts": _fronts(c),
        "left_out": _left_out(c),
        "figures": [(f, inline(f.svg, f"s{i}-{f.name}")) for f in shown],
    }


def _lines(c: Comparison, entries: Sequence[Entry], names: Sequence[str]) -> list[EntryLine]:
    best = best_of(entries, names)
    return [EntryLine(e, _note(e, c.by), bench_cells(e, names, best)) for e in entries]


def _note(e: Entry, by: str) -> str:
    s = e.family.first
    return "ceiling" if s.is_ceiling(by) else "baseline" if s.is_baseline else ""


def _tests(c: Comparison, score: str) -> list[Test]:
    """The tests in one score, the smallest difference first."""
    return sorted((t for t in c.tests if t.score == score), key=lambda t: t.paired.estimate.mean)


def _spread(c: Comparison) -> list[tuple[Entry, list[Parts]]]:
    """For each entry, the standard deviations over data sets and seeds in the tested scores."""
    scores = list(dict.fromkeys(t.score for t in c.tests))
    spread = [(e, [e.parts(score) for score in scores]) for e in c.entries]
    return [(e, parts) for e, parts in spread if any(math.isfinite(part.seed) for part in parts)]


def _facts(comparisons: Sequence[Comparison]) -> list[tuple[str, str]]:
    """How much was run, in a few numbers."""
    n_dictionaries = sum(len(s.members) for c in comparisons for e in c.entries for s in e.family.settings)
    n_seeds = max((len(e.family.seeds) for c in comparisons for e in c.entries), default=0)
    n_methods = max((len(c.entries) for c in comparisons), default=0)
    n_data = max((c.n_data for c in comparisons), default=0)
    facts = [
        (_noun("dictionaries scored", "dictionary scored", n_dictionaries), str(n_dictionaries)),
        (_noun("methods", "method", n_methods), str(n_methods)),
        (_noun("data sets per method", "data set per method", n_data), str(n_data)),
        (_noun("initial seeds per data set, at most", "initial seed per data set", n_seeds), str(n_seeds)),
    ]
    return [*facts, ("sources", str(len(comparisons)))] if len(comparisons) > 1 else facts


def _noun(several: str, one: str, n: int) -> str:
    return one if n == 1 else several


def _methods(comparisons: Sequence[Comparison]) -> list[tuple[str, str]]:
    """The kind of every method with the first paragraph of its module's docstring."""
    descriptions: dict[str, str] = {}
    for kind in dict.fromkeys(e.family.first.kind for c in comparisons for e in c.entries):
        for package in ("dictionaries", "baselines"):
            if kind in kinds(package):
                descriptions[kind] = first_paragraph(kinds(package)[kind].__doc__ or "")
    return list(descriptions.items())
