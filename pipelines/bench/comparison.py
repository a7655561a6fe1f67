"""The comparison of one source's families: entries in order, differences with their tests, sweeps at one L0."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from pipelines.bench.families import Entry, Family, areas, at_matched_l0, chosen_setting, families_of, true_l0
from pipelines.report.scores import ordered_scores, score_of
from pipelines.report.settings_table import ScoredRow, Setting, Value
from sae.numerics.paired_tests import Groups, Paired, holm, nested_mean, paired
from sae.numerics.statistics import Estimate

SECOND = "f1"
"""Tested beside the score that names the best: directions that are right may fire at the wrong times."""
_NEAR = 0.05
"""How far, as a share, the L0 of a method without a sweep may be from the one that is compared at."""


@dataclass(frozen=True, eq=False)
class Test:
    """An entry against the leader in one score: how much better the leader is on the same data sets."""

    score: str
    entry: Entry
    paired: Paired
    p_holm: float


@dataclass(frozen=True, eq=False)
class Comparison:
    """Of one source. `entries` come best first by `by`; `at_matched_l0` are read at `l0`, the mean over data sets,
    where a
    sweep reaches it on all of them; `area` are mean scores over the `reach` that every sweep has."""

    source: str
    by: str
    entries: Sequence[Entry]
    tests: Sequence[Test]
    l0: float
    matched: Sequence[Entry]
    reach: tuple[float, float]
    area: Mapping[str, Estimate]
    area_groups: Mapping[str, Groups]
    n_data: int

    @property
    def fair(self) -> list[Entry]:
        """The entries that were not given what is to be found."""
        return [e for e in self.entries if not e.family.first.is_ceiling(self.by)]

    @property
    def leader(self) -> Entry | None:
        """The best of them."""
        return self.fair[0] if self.fair and self.fair[0].goodness(self.by) > -math.inf else None

    def of(self, kind: str) -> list[Entry]:
        """The entries of one kind of method."""
        return [e for e in self.entries if e.family.first.kind == kind]


def compare_methods(
    source: str,
    settings: Sequence[Setting],
    rows: Sequence[ScoredRow],
    by: str,
    l0: float | None,
    agreement: Callable[[Sequence[int]], float],
) -> Comparison:
    """Everything that is said of one source's `settings`.

    `l0` is where sweeps are compared, the true one of each data set where it is None. `agreement` tells the `pw_mcc` of
    rows that differ in their initial seed alone, given their indices.
    """
    families = families_of(settings, rows)
    names = ordered_scores({name for s in settings for name in s.scores})
    entries = [_with_agreement(chosen_setting(f, names, by), rows, agreement, by) for f in families]
    entries = sorted(entries, key=lambda e: -e.goodness(by))
    data = sorted({d for f in families for d in f.data}, key=str)
    at: dict[Value, float] = true_l0(families) if l0 is None else dict.fromkeys(data, l0)
    reach, area_groups = areas(families, by)
    comparison = Comparison(
        source=source,
        by=by,
        entries=entries,
        tests=(),
        l0=math.fsum(at.values()) / len(at) if at else math.nan,
        matched=sorted(_matched(families, names, at), key=lambda e: -e.goodness(by)) if at else [],
        reach=reach,
        area={label: nested_mean(groups) for label, groups in area_groups.items()},
        area_groups=area_groups,
        n_data=len(data),
    )
    tests = [t for score in dict.fromkeys((by, SECOND)) for t in _tests(comparison, score, data)]
    return replace(comparison, tests=tests)


def _matched(families: Sequence[Family], names: Sequence[str], l0: Mapping[Value, float]) -> list[Entry]:
    """Sweeps at that L0 where they reach it on every data set; and whatever has no sweep and is near it."""
    found = [at_matched_l0(f, names, l0) for f in families if f.is_swept]
    found = [e for e in found if all(math.isfinite(v) for group in e.groups["l0"] for v in group)]
    alone = [f for f in families if not f.is_swept]
    near = [f for f in alone if all(abs(f.mean(0, d, "l0") / l0[d] - 1) <= _NEAR for d in f.data if d in l0)]
    return [*found, *(chosen_setting(f, names, "l0") for f in near)]


def _with_agreement(
    entry: Entry, rows: Sequence[ScoredRow], agreement: Callable[[Sequence[int]], float], by: str
) -> Entry:
    """The entry with `pw_mcc`: for each data set, of the dictionaries of the setting that it is read at."""
    family = entry.family
    found: list[list[float]] = []
    for d, i in family.picked(by).items():
        found.append([agreement([m for m in family.settings[i].members if rows[m].identity.get("data_seed") == d])])
    return Entry(family, {**entry.groups, "pw_mcc": found}, entry.where)


def _tests(comparison: Comparison, score: str, data: Sequence[Value]) -> list[Test]:
    """The leader against every other fair entry that has the score, on the data sets that both have."""
    leader = comparison.leader
    if leader is None or math.isnan(leader.estimate(score).mean):
        return []
    known = score_of(score)
    sign = -1.0 if known is not None and known.better == "less" else 1.0
    others = [e for e in comparison.fair if e is not leader and math.isfinite(e.estimate(score).mean)]

    def aligned(e: Entry) -> Groups:
        by_data = dict(zip(e.family.data, e.groups[score], strict=True))
        return [[sign * v for v in by_data.get(d, [])] for d in data]

    found = [paired(aligned(leader), aligned(e)) for e in others]
    adjusted = holm([one.p for one in found])
    return [Test(score, e, one, p) for e, one, p in zip(others, found, adjusted, strict=True)]
