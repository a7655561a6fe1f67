"""The numbers of a comparison as text: table cells with intervals, a Markdown table, and CSV files."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipelines.bench.comparison import Comparison, Test
from pipelines.bench.families import Entry
from pipelines.report.numbers import MINUS, UNDEFINED, number
from pipelines.report.scores import goodness, ordered_scores, score_of
from sae.numerics.paired_tests import Groups, nested_bootstrap, nested_mean, variance_parts
from sae.numerics.seeds import derive
from sae.numerics.statistics import Estimate

CANONICAL = (
    *("l0", "true_l0", "explained_variance", "shrinkage", "mmcs_truth", "mmcs_latents", "mcc", "mcc_all"),
    *("recovered_80", "recovered_90", "precision", "recall", "f1", "f1_chosen", "f1_macro"),
    *("coefficient_slope", "coefficient_r2", "code_mcc", "support_agreement", "support_truth", "uniqueness"),
    *("dead", "dense"),
    *("absorption_full", "absorption_fraction", "subspace_cosine", "probe_auc_latent"),
    *("pw_mcc", "train_samples", "train_flops", "seconds", "bytes"),
)
"""The columns of the main table, where a suite has them."""

COUNTED = frozenset(["train_rows", "train_samples", "train_flops", "bytes"])
"""Scores that are shown with a unit prefix: k, M, G."""


class BenchCell(NamedTuple):
    """A score of an entry as text."""

    text: str
    """The mean."""
    interval: str
    """Its 95% interval."""
    best: bool
    """Whether it is the best mean of its column, not counting ceilings."""
    hint: str
    """Mean, intervals and standard deviations in full."""
    value: float
    """The mean as a number; NaN if the score is not defined."""


def bench_cells(entry: Entry, names: Sequence[str], best: dict[str, float]) -> list[BenchCell]:
    """One cell for each score of an entry."""
    return [bench_cell(name, entry.groups.get(name, []), best.get(name)) for name in names]


def best_of(entries: Iterable[Entry], names: Sequence[str]) -> dict[str, float]:
    """The best goodness of each score that has a better direction, over all entries except ceilings."""
    best: dict[str, float] = {}
    for name in names:
        known = score_of(name)
        if known is not None and known.better:
            fair = [e.goodness(name) for e in entries if not e.family.first.is_ceiling(name)]
            best[name] = max(fair, default=-math.inf)
    return best


def bench_cell(name: str, groups: Groups, best: float | None = None) -> BenchCell:
    """The cell of a score; `best` is the best goodness of its column."""
    e, parts = nested_mean(groups), variance_parts(groups)
    if e.n == 0:
        return BenchCell(UNDEFINED, "", False, "not defined here", math.nan)
    low, high = nested_bootstrap(groups, seed=derive("bench", name) % 2**32)
    hint = f"{name} {e.mean:.6g}, 95% interval {e.low:.6g} to {e.high:.6g} over {e.n} {_unit(groups, e.n)}"
    hint += f", bootstrap {low:.6g} to {high:.6g}; sd over data sets {parts.data:.3g}, over seeds {parts.seed:.3g}"
    is_best = best is not None and goodness(e.mean, name) == best
    return BenchCell(
        count_text(e.mean) if name in COUNTED else number(e.mean), interval(e, name), is_best, hint, e.mean
    )


def _unit(groups: Groups, n: int) -> str:
    return "data sets" if len(groups) == n and n > 1 else "seeds" if n > 1 else "value"


def interval(e: Estimate, name: str = "") -> str:
    """``[.911, .934]``; ``(one)`` for a single value, empty where all values are equal. The upper end is at most 1 for
    scores where more is better: all of them are shares, cosines or correlations."""
    if e.n < 2:
        return "(one)"
    if e.half == 0:
        return ""
    text = count_text if name in COUNTED else number
    low, high = interval_ends(e, name)
    return f"[{_bare(text(low))}, {_bare(text(high))}]"


def interval_ends(e: Estimate, name: str) -> tuple[float, float]:
    """The ends of an interval as tables show them; NaN for a single value."""
    known = score_of(name)
    return e.low, min(e.high, 1.0) if known is not None and known.better == "more" else e.high


def _bare(text: str) -> str:
    """Drops the zero before the decimal point."""
    text = text.replace("-", MINUS)
    return text.replace("0.", ".", 1) if text.lstrip(MINUS).startswith("0.") else text


def count_text(value: float) -> str:
    """A number with three significant digits and a unit prefix: 1.54M."""
    if not math.isfinite(value):
        return UNDEFINED
    step = 0 if abs(value) < 1000 else min(6, int(math.log10(abs(value)) // 3))
    return f"{value / 1000**step:.3g}{('', 'k', 'M', 'G', 'T', 'P', 'E')[step]}"


def p_value(p: float) -> str:
    """A p-value with three decimals: ``.012``, ``< .001``; a dash for NaN."""
    if math.isnan(p):
        return UNDEFINED
    return "< .001" if p < 0.001 else f"{p:.3f}".replace("0.", ".", 1)


def present(comparison: Comparison, names: Sequence[str]) -> list[str]:
    """Those of the scores that at least one entry has."""
    return [n for n in names if any(math.isfinite(e.estimate(n).mean) for e in comparison.entries)]


def markdown(comparisons: Sequence[Comparison]) -> str:
    """The main table of each source in Markdown."""
    parts: list[str] = []
    for c in comparisons:
        names = present(c, CANONICAL)
        best = best_of(c.entries, names)
        head = ["method", "penalty", *names]
        lines = [f"### {c.source}, {c.n_data} data sets" if c.n_data > 1 else f"### {c.source}", ""]
        lines += ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
        for e in c.entries:
            mark = " (ceiling)" if e.family.first.is_ceiling(c.by) else ""
            texts = [f"{one.text} {one.interval}".strip() for one in bench_cells(e, names, best)]
            lines.append("| " + " | ".join([e.family.label + mark, e.where, *texts]) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def write_table(comparisons: Sequence[Comparison], path: Path) -> None:
    """Writes one line per entry and score: at the chosen penalty, at the common L0, and averaged over the sweep."""
    columns = ("mean", "low", "high", "boot_low", "boot_high", "sd_data", "sd_seed", "n")
    with path.open("w", newline="", encoding="utf-8") as f:
        out = csv.writer(f, lineterminator="\n")
        out.writerow(["source", "view", "method", "encoder", "n_latents", "read_at", "score", *columns])
        for c in comparisons:
            views = [("chosen", e, e.groups) for e in c.entries] + [("matched", e, e.groups) for e in c.matched]
            views += [("area", e, {c.by: c.area_groups[e.family.label]}) for e in c.entries if e.family.label in c.area]
            for view, e, groups in views:
                s = e.family.first
                for name in ordered_scores(groups):
                    if nested_mean(groups[name]).n:
                        about = [c.source, view, s.method, s.encoder, s.n_latents or "", e.where, name]
                        out.writerow([*about, *map(_exact, _numbers(name, groups[name]))])


def _numbers(name: str, groups: Groups) -> list[float]:
    e, parts = nested_mean(groups), variance_parts(groups)
    boot = nested_bootstrap(groups, seed=derive("bench", name) % 2**32)
    return [e.mean, e.low, e.high, *boot, parts.data, parts.seed, e.n]


def write_tests(comparisons: Sequence[Comparison], path: Path) -> None:
    """Writes one line per paired test."""
    columns = ("difference", "low", "high", "effect", "p", "p_holm", "p_ranks", "wins", "losses", "n_data")
    with path.open("w", newline="", encoding="utf-8") as f:
        out = csv.writer(f, lineterminator="\n")
        out.writerow(["source", "score", "leader", "method", *columns])
        for c in comparisons:
            for t in c.tests:
                assert c.leader is not None
                out.writerow([c.source, t.score, c.leader.family.label, t.entry.family.label, *_test_numbers(t)])


def _test_numbers(t: Test) -> list[Any]:
    e = t.paired.estimate
    exact = map(_exact, (e.mean, e.low, e.high, t.paired.effect, t.paired.p, t.p_holm, t.paired.p_ranks))
    return [*exact, t.paired.wins, t.paired.losses, e.n]


def _exact(value: float) -> str:
    return "" if math.isnan(value) else repr(value)
