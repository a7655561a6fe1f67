"""What is compared: a method with its whole sweep of sparsity, read at one setting of it, or at one L0.

No setting is chosen on the data that it is scored on. For each data set the penalty of a sweep is the one that has the
best mean on the *other* data sets, so that every data set counts, and none for its own choice. Of a single data set
that is impossible: it chooses for itself, which the tables say.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from pipelines.bench.sweep_curve import Frontier, shared_range
from pipelines.report.scores import goodness
from pipelines.report.settings_table import ScoredRow, Setting, Value
from sae.numerics.paired_tests import Groups, Parts, nested_mean, variance_parts
from sae.numerics.statistics import Estimate, mean_interval

Cells = Mapping[Value, Mapping[Value, Mapping[str, float]]]
"""The scores of one setting: by data set, then by initial seed."""


@dataclass(frozen=True, eq=False)
class Family:
    """Settings that differ in their penalty alone: one method at one width, as one encoder reads it."""

    label: str
    settings: tuple[Setting, ...]
    cells: tuple[Cells, ...]
    """Of each setting."""

    @property
    def first(self) -> Setting:
        """Stands for what all its settings share."""
        return self.settings[0]

    @property
    def is_swept(self) -> bool:
        return len(self.settings) > 1

    @property
    def data(self) -> list[Value]:
        """The data sets on which it was run, in order."""
        return sorted({d for cells in self.cells for d in cells}, key=str)

    def mean(self, i: int, data: Value, score: str) -> float:
        """Of the i-th setting on one data set, over its seeds; NaN where there is none."""
        return mean_interval([s.get(score, math.nan) for s in self.cells[i].get(data, {}).values()]).mean

    def groups(self, i: int, score: str) -> Groups:
        """Of the i-th setting: for each data set, the values of its seeds."""
        return [[s.get(score, math.nan) for s in self.cells[i].get(d, {}).values()] for d in self.data]

    def picked(self, score: str) -> dict[Value, int]:
        """For each data set, the setting that is best by a score on the others."""
        return {d: self._best([e for e in self.data if e != d] or [d], score) for d in self.data}

    def _best(self, data: Sequence[Value], score: str) -> int:
        def value(i: int) -> float:
            return goodness(mean_interval([self.mean(i, d, score) for d in data]).mean, score)

        return max(range(len(self.settings)), key=value)

    @cached_property
    def seeds(self) -> list[Value]:
        return sorted({seed for cells in self.cells for by_seed in cells.values() for seed in by_seed}, key=str)

    def frontier(self, data: Value, seed: Value, score: str) -> Frontier:
        """A score along the sweep, of one seed on one data set."""
        every = [cells.get(data, {}).get(seed, {}) for cells in self.cells]
        return Frontier.through([(s.get("l0", math.nan), s.get(score, math.nan)) for s in every])

    def frontiers(self, score: str) -> dict[Value, list[Frontier]]:
        """The curves of every data set, one a seed."""
        return {d: [self.frontier(d, seed, score) for seed in self.seeds] for d in self.data}


def families_of(settings: Sequence[Setting], rows: Sequence[ScoredRow]) -> list[Family]:
    """The families of one source, in the order in which they first appear."""
    together: dict[tuple[object, ...], list[Setting]] = {}
    for s in settings:
        together.setdefault((s.method, s.encoder, s.n_latents, s.others), []).append(s)
    labels = [group[0].label for group in together.values()]
    found: list[Family] = []
    for group in together.values():
        several = labels.count(group[0].label) > 1 and group[0].n_latents
        label = f"{group[0].label}, {group[0].n_latents}" if several else group[0].label
        ordered = sorted(group, key=lambda s: s.penalty[0][1] if s.penalty else 0.0)
        found.append(Family(label, tuple(ordered), tuple(_cells(s, rows) for s in ordered)))
    return found


def _cells(setting: Setting, rows: Sequence[ScoredRow]) -> Cells:
    found: dict[Value, dict[Value, Mapping[str, float]]] = {}
    for i in setting.members:
        identity = rows[i].identity
        found.setdefault(identity.get("data_seed"), {})[identity.get("seed")] = rows[i].scores
    return found


@dataclass(frozen=True, eq=False)
class Entry:
    """A family as it is compared: for each data set the values of its seeds, and where they were read."""

    family: Family
    groups: Mapping[str, Groups]
    where: str = ""
    """The penalty at which it is read, as a few words; several where data sets chose differently."""

    def estimate(self, score: str) -> Estimate:
        """The mean over data sets and its interval; without any value a NaN."""
        return nested_mean(self.groups.get(score, []))

    def parts(self, score: str) -> Parts:
        """How far data sets differ, and seeds on one."""
        return variance_parts(self.groups.get(score, []))

    def goodness(self, score: str) -> float:
        return goodness(self.estimate(score).mean, score)


def chosen_setting(family: Family, names: Sequence[str], by: str) -> Entry:
    """The family at the penalty that the other data sets choose by a score."""
    picked = family.picked(by)
    groups = {
        name: [[s.get(name, math.nan) for s in family.cells[i].get(d, {}).values()] for d, i in picked.items()]
        for name in names
    }
    return Entry(family, groups, _where([family.settings[i] for i in picked.values()]))


def at_matched_l0(family: Family, names: Sequence[str], l0: Mapping[Value, float]) -> Entry:
    """The family at a given L0 of each data set, read between the neighbouring points of its sweep, seed by seed."""
    groups = {
        name: [[f.at(l0[d]) for f in curves] for d, curves in family.frontiers(name).items() if d in l0]
        for name in names
    }
    return Entry(family, groups)


def areas(families: Sequence[Family], score: str) -> tuple[tuple[float, float], Mapping[str, Groups]]:
    """The range of L0 that every sweep reaches on every data set, and each sweep's mean score over it."""
    swept = {f.label: f.frontiers(score) for f in families if f.is_swept}
    every = [curve for by_data in swept.values() for curves in by_data.values() for curve in curves]
    low, high = shared_range(every)
    groups = {
        label: [[curve.area(low, high) for curve in curves] for curves in by_data.values()]
        for label, by_data in swept.items()
    }
    return (low, high), groups


def true_l0(families: Sequence[Family]) -> dict[Value, float]:
    """The mean number of active features of each data set, as every dictionary's scores repeat it."""
    found: dict[Value, float] = {}
    for family in families:
        for i in range(len(family.settings)):
            for d in family.data:
                value = family.mean(i, d, "true_l0")
                if math.isfinite(value):
                    found.setdefault(d, value)
    return found


def _where(settings: Sequence[Setting]) -> str:
    """The penalties of several settings, each once, the most frequent first."""
    texts = [f"{name} = {value:.4g}" for s in settings for name, value in s.penalty[:1]]
    return ", ".join(sorted(set(texts), key=lambda text: (-texts.count(text), text)))
