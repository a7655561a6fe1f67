"""Method families: one method with all settings of its sparsity sweep, evaluated at one of them or at a given L0.

No setting is chosen on the data that it is scored on. For each data set, the penalty is the one with the best mean
score on the *other* data sets: every data set counts, but never for its own choice. With a single data set this is
impossible; the penalty is then chosen on the same data, which the tables state.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from pipelines.bench.sweep_curve import SweepCurve, shared_range
from pipelines.report.scores import goodness
from pipelines.report.settings_table import ScoredRow, Setting, Value
from sae.numerics.paired_tests import Groups, Parts, nested_mean, variance_parts
from sae.numerics.statistics import Estimate, mean_interval

Cells = Mapping[Value, Mapping[Value, Mapping[str, float]]]
"""The scores of one setting: by data set, then by initial seed."""


@dataclass(frozen=True, eq=False)
class Family:
    """Settings that differ only in their penalty: one method at one width with one encoder."""

    label: str
    """Name on tables and figures; it includes the width where a method has several."""
    settings: tuple[Setting, ...]
    """The settings in the order of their penalty."""
    cells: tuple[Cells, ...]
    """The scores of each setting."""

    @property
    def first(self) -> Setting:
        """The first setting, for the properties that all settings share."""
        return self.settings[0]

    @property
    def is_swept(self) -> bool:
        """Whether there is more than one setting."""
        return len(self.settings) > 1

    @property
    def data(self) -> list[Value]:
        """The data sets on which it was run, in order."""
        return sorted({d for cells in self.cells for d in cells}, key=str)

    def mean(self, i: int, data: Value, score: str) -> float:
        """Mean of a score over the seeds of the i-th setting on one data set; NaN if there is none."""
        return mean_interval([s.get(score, math.nan) for s in self.cells[i].get(data, {}).values()]).mean

    def groups(self, i: int, score: str) -> Groups:
        """The values of a score at the i-th setting: for each data set, those of its seeds."""
        return [[s.get(score, math.nan) for s in self.cells[i].get(d, {}).values()] for d in self.data]

    def best_on_other_data(self, score: str) -> dict[Value, int]:
        """For each data set, the index of the setting with the best mean score on the other data sets."""
        return {d: self._best([e for e in self.data if e != d] or [d], score) for d in self.data}

    def _best(self, data: Sequence[Value], score: str) -> int:
        def value(i: int) -> float:
            return goodness(mean_interval([self.mean(i, d, score) for d in data]).mean, score)

        return max(range(len(self.settings)), key=value)

    @cached_property
    def seeds(self) -> list[Value]:
        """The initial seeds of all settings, in order."""
        return sorted({seed for cells in self.cells for by_seed in cells.values() for seed in by_seed}, key=str)

    def curve(self, data: Value, seed: Value, score: str) -> SweepCurve:
        """A score along the sweep for one seed on one data set."""
        every = [cells.get(data, {}).get(seed, {}) for cells in self.cells]
        return SweepCurve.through([(s.get("l0", math.nan), s.get(score, math.nan)) for s in every])

    def curves(self, score: str) -> dict[Value, list[SweepCurve]]:
        """For each data set, one curve per seed."""
        return {d: [self.curve(d, seed, score) for seed in self.seeds] for d in self.data}


def families_of(settings: Sequence[Setting], rows: Sequence[ScoredRow]) -> list[Family]:
    """The families of one source, in the order in which they first appear."""
    groups: dict[tuple[object, ...], list[Setting]] = {}
    for s in settings:
        groups.setdefault((s.method, s.encoder, s.n_latents, s.others), []).append(s)
    labels = [group[0].label for group in groups.values()]
    families: list[Family] = []
    for group in groups.values():
        several = labels.count(group[0].label) > 1 and group[0].n_latents
        label = f"{group[0].label}, {group[0].n_latents}" if several else group[0].label
        ordered = sorted(group, key=lambda s: s.penalty[0][1] if s.penalty else 0.0)
        families.append(Family(label, tuple(ordered), tuple(_cells(s, rows) for s in ordered)))
    return families


def _cells(setting: Setting, rows: Sequence[ScoredRow]) -> Cells:
    cells: dict[Value, dict[Value, Mapping[str, float]]] = {}
    for i in setting.members:
        identity = rows[i].identity
        cells.setdefault(identity.get("data_seed"), {})[identity.get("seed")] = rows[i].scores
    return cells


@dataclass(frozen=True, eq=False)
class Entry:
    """A family evaluated at a chosen penalty or at a given L0."""

    family: Family
    """The family that is evaluated."""
    groups: Mapping[str, Groups]
    """By score: for each data set, the values of its seeds."""
    where: str = ""
    """The chosen penalty as text, such as ``l1 = 2``; several if data sets chose differently, empty at a given L0."""

    def estimate(self, score: str) -> Estimate:
        """Mean over data sets with its interval; NaN if there is no value."""
        return nested_mean(self.groups.get(score, []))

    def parts(self, score: str) -> Parts:
        """Standard deviations over data sets, and over seeds within one data set."""
        return variance_parts(self.groups.get(score, []))

    def goodness(self, score: str) -> float:
        """The mean, negated for scores where less is better; minus infinity if there is no value."""
        return goodness(self.estimate(score).mean, score)


def chosen_setting(family: Family, names: Sequence[str], by: str) -> Entry:
    """The family with, for each data set, the penalty that is best on the other data sets by the score `by`."""
    best = family.best_on_other_data(by)
    groups = {
        name: [[s.get(name, math.nan) for s in family.cells[i].get(d, {}).values()] for d, i in best.items()]
        for name in names
    }
    return Entry(family, groups, _where([family.settings[i] for i in best.values()]))


def at_matched_l0(family: Family, names: Sequence[str], l0: Mapping[Value, float]) -> Entry:
    """The family at a given L0 of each data set, interpolated between points of the sweep for each seed."""
    groups = {
        name: [[curve.at(l0[d]) for curve in curves] for d, curves in family.curves(name).items() if d in l0]
        for name in names
    }
    return Entry(family, groups)


def areas(families: Sequence[Family], score: str) -> tuple[tuple[float, float], Mapping[str, Groups]]:
    """The range of L0 that every sweep covers on every data set, and the mean score of each sweep over it."""
    swept = {f.label: f.curves(score) for f in families if f.is_swept}
    every = [curve for by_data in swept.values() for curves in by_data.values() for curve in curves]
    low, high = shared_range(every)
    groups = {
        label: [[curve.area(low, high) for curve in curves] for curves in by_data.values()]
        for label, by_data in swept.items()
    }
    return (low, high), groups


def true_l0(families: Sequence[Family]) -> dict[Value, float]:
    """Mean number of active features of each data set, taken from the scores of any dictionary."""
    by_data: dict[Value, float] = {}
    for family in families:
        for i in range(len(family.settings)):
            for d in family.data:
                value = family.mean(i, d, "true_l0")
                if math.isfinite(value):
                    by_data.setdefault(d, value)
    return by_data


def _where(settings: Sequence[Setting]) -> str:
    """The penalties of several settings as text, without repeats, the most frequent first."""
    texts = [f"{name} = {value:.4g}" for s in settings for name, value in s.penalty[:1]]
    return ", ".join(sorted(set(texts), key=lambda text: (-texts.count(text), text)))
