"""The page of a suite: one self-contained file with tables, tests, figures, and what papers report."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from pipelines.bench import figures
from pipelines.bench.comparison import SECOND, Comparison, Test
from pipelines.bench.families import Entry
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
from pipelines.report.findings import number
from pipelines.report.page import breakable, families, first_paragraph, inline, prose, toml
from pipelines.report.scores import ordered_scores, score_of
from pipelines.steps.store import versions
from sae.numerics.paired_tests import Parts
from sae.registry import kinds

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class ShownEntry(NamedTuple):
    """A figure with its file name, its title, and a caption that says how to read it."""

    name: str
    title: str
    caption: str
    figure: Figure


class EntryLine(NamedTuple):
    """An entry as a line of a table."""

    entry: Entry
    note: str
    cells: Sequence[BenchCell]


def drawn(c: Comparison, published: Sequence[Mapping[str, Any]]) -> Iterator[ShownEntry]:
    """The figures of one source for which there are data."""
    for score in dict.fromkeys((c.by, SECOND, "explained_variance")):
        figure = figures.draw_sweep_curves(c, score)
        if figure is not None:
            caption = (
                "Mean over data sets with its 95% band; dots are single dictionaries. Nothing is drawn where not every "
                "dictionary of the sweep reaches."
            )
            yield ShownEntry(f"frontier-{score}", f"{score} along the sweeps", caption, figure)
    for score in dict.fromkeys((c.by, SECOND)):
        known = [(row["method"], row["scores"][score]) for row in published if score in row["scores"]]
        figure = figures.seeds(c, score, known)
        if figure is not None:
            caption = (
                "Dots are dictionaries, one level for each data set; the stroke is the mean with its 95% interval."
            )
            caption += " Hollow: what papers report, of other data and budgets." if known else ""
            yield ShownEntry(f"seeds-{score}", f"{score}, dictionary by dictionary", caption, figure)
    for stem, title in (("mmcs_decile_", "cosine of the best latent"), ("f1_decile_", "F1 of the matched latent")):
        figure = figures.draw_deciles(c, stem, title)
        if figure is not None:
            caption = "Means over data sets with 95% intervals. Dashed: chance, and what was given the features."
            yield ShownEntry(stem.rstrip("_"), f"Recovery by frequency: {title}", caption, figure)
    for against, title in (("train_samples", "rows"), ("train_flops", "operations")):
        figure = figures.cost(c, c.by, against)
        if figure is not None:
            caption = "Up and to the left is better. The dashed line is the ceiling."
            yield ShownEntry(f"cost-{title}", f"{c.by} against {title} of training", caption, figure)


def render_bench(
    config: Mapping[str, Any], comparisons: Sequence[Comparison], svgs: Sequence[Mapping[str, str]]
) -> str:
    """The page. `config` is the bench step's; `svgs` have the figures of each source by name."""
    import jinja2

    loader = jinja2.PackageLoader("pipelines", "templates")
    page = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page.filters.update(prose=prose, breakable=breakable, number=number, interval=interval, p=p_value, count=count_text)
    names = ordered_scores({n for c in comparisons for e in c.entries for n in e.groups})
    return page.get_template("bench.html").render(
        config=config,
        sections=[
            _section(c, config["published"], svg, i) for i, (c, svg) in enumerate(zip(comparisons, svgs, strict=True))
        ],
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


def _section(c: Comparison, published: Sequence[Mapping[str, Any]], svg: Mapping[str, str], i: int) -> dict[str, Any]:
    names = present(c, CANONICAL)
    everything = [n for n in ordered_scores({n for e in c.entries for n in e.groups}) if present(c, [n])]
    matched = [n for n in names if n != "true_l0" and any(n in e.groups for e in c.matched)]
    shown = list(drawn(c, published))
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
        "figures": [(f, inline(svg[f.name], f"s{i}-{f.name}")) for f in shown if f.name in svg],
    }


def _lines(c: Comparison, entries: Sequence[Entry], names: Sequence[str]) -> list[EntryLine]:
    best = best_of(entries, names)
    return [EntryLine(e, _note(e, c.by), bench_cells(e, names, best)) for e in entries]


def _note(e: Entry, by: str) -> str:
    s = e.family.first
    return "ceiling" if s.is_ceiling(by) else "baseline" if s.is_baseline else ""


def _tests(c: Comparison, score: str) -> list[Test]:
    """The tests in one score, the nearest rival first."""
    return sorted((t for t in c.tests if t.score == score), key=lambda t: t.paired.estimate.mean)


def _spread(c: Comparison) -> list[tuple[Entry, list[Parts]]]:
    """For each entry how far data sets and seeds differ, in the scores that are tested."""
    scores = list(dict.fromkeys(t.score for t in c.tests))
    found = [(e, [e.parts(score) for score in scores]) for e in c.entries]
    return [(e, parts) for e, parts in found if any(math.isfinite(part.seed) for part in parts)]


def _facts(comparisons: Sequence[Comparison]) -> list[tuple[str, str]]:
    """How much was run."""
    n_dictionaries = sum(len(s.members) for c in comparisons for e in c.entries for s in e.family.settings)
    seeds = {len(e.family.seeds) for c in comparisons for e in c.entries}
    found = [
        ("dictionaries scored", str(n_dictionaries)),
        ("methods", str(max((len(c.entries) for c in comparisons), default=0))),
        ("data sets each", str(max((c.n_data for c in comparisons), default=0))),
        ("initial seeds each, at most", str(max(seeds, default=0))),
    ]
    return [*found, ("sources", str(len(comparisons)))] if len(comparisons) > 1 else found


def _methods(comparisons: Sequence[Comparison]) -> list[tuple[str, str]]:
    """Every method in words: the first paragraph of what its own file says."""
    found: dict[str, str] = {}
    for kind in dict.fromkeys(e.family.first.kind for c in comparisons for e in c.entries):
        for package in ("sae.dictionaries", "sae.baselines"):
            if kind in kinds(package):
                found[kind] = first_paragraph(kinds(package)[kind].__doc__ or "")
    return list(found.items())
