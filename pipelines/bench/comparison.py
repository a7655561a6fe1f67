"""Comparison of the method families of one source: ranked entries, paired tests, and sweeps at a common L0."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from pipelines.bench.families import Entry, Family, areas, at_matched_l0, chosen_setting, families_of, true_l0
from pipelines.report.scores import ordered_scores, score_of
from pipelines.report.settings_table import ScoredRow, Setting, Value
from sae.numerics.paired_tests import Groups, Paired, holm, nested_mean, paired
from sae.numerics.statistics import Estimate

SECOND_SCORE = "f1"
"""Score that is tested in addition to the ranking score: correct directions may still fire at the wrong times."""
_NEAR = 0.05
"""Largest relative distance between the L0 of a method without a sweep and the L0 at which methods are compared."""


@dataclass(frozen=True, eq=False)
class Test:
    """Paired test of the leader against one entry, in one score."""

    score: str
    """The score that is compared."""
    entry: Entry
    """The entry that the leader is compared with."""
    paired: Paired
    """The advantage of the leader over the entry on the data sets that both have; positive: the leader is better."""
    p_holm: float
    """The p-value of the paired t-test, adjusted by Holm over all entries."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """Comparison of all methods on one source."""

    source: str
    """Name of the source."""
    by: str
    """The score that ranks the entries."""
    entries: Sequence[Entry]
    """One entry per family, best first."""
    tests: Sequence[Test]
    """The leader against every other fair entry, in `by` and in `SECOND_SCORE`."""
    l0: float
    """The L0 at which sweeps are compared, averaged over data sets."""
    matched: Sequence[Entry]
    """The entries at that L0, best first; only families that reach it on every data set."""
    reach: tuple[float, float]
    """The range of L0 that every sweep covers."""
    area: Mapping[str, Estimate]
    """Mean score `by` over `reach`, by family label."""
    area_groups: Mapping[str, Groups]
    """The values behind `area`: for each data set, those of its seeds."""
    n_data: int
    """Number of data sets."""

    @property
    def fair(self) -> list[Entry]:
        """The entries that are no ceiling: they do not know the true features."""
        return [e for e in self.entries if not e.family.first.is_ceiling(self.by)]

    @property
    def leader(self) -> Entry | None:
        """The best fair entry; None if no fair entry has the score."""
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
    """Compares all `settings` of one source.

    `l0` is the L0 at which sweeps are compared; None takes the true L0 of each data set. `agreement` maps the indices
    of rows that differ only in their initial seed to their `pw_mcc`.
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
    tests = [t for score in dict.fromkeys((by, SECOND_SCORE)) for t in _tests(comparison, score, data)]
    return replace(comparison, tests=tests)


def _matched(families: Sequence[Family], names: Sequence[str], l0: Mapping[Value, float]) -> list[Entry]:
    """Sweeps that reach the given L0 on every data set, and families without a sweep whose L0 is near it."""
    swept = [at_matched_l0(f, names, l0) for f in families if f.is_swept]
    swept = [e for e in swept if all(math.isfinite(v) for group in e.groups["l0"] for v in group)]
    alone = [f for f in families if not f.is_swept]
    near = [f for f in alone if all(abs(f.mean(0, d, "l0") / l0[d] - 1) <= _NEAR for d in f.data if d in l0)]
    return [*swept, *(chosen_setting(f, names, "l0") for f in near)]


def _with_agreement(
    entry: Entry, rows: Sequence[ScoredRow], agreement: Callable[[Sequence[int]], float], by: str
) -> Entry:
    """The entry with its `pw_mcc`: for each data set, that of the dictionaries at the chosen setting."""
    family = entry.family
    groups: list[list[float]] = []
    for d, i in family.best_on_other_data(by).items():
        groups.append([agreement([m for m in family.settings[i].members if rows[m].identity.get("data_seed") == d])])
    return Entry(family, {**entry.groups, "pw_mcc": groups}, entry.where)


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

    results = [paired(aligned(leader), aligned(e)) for e in others]
    adjusted = holm([one.p for one in results])
    return [Test(score, e, one, p) for e, one, p in zip(others, results, adjusted, strict=True)]
