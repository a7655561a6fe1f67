"""Summary of a probe study: means over tasks with intervals, and paired comparisons over tasks.

The statistical unit is the task: its results over seeds of rows, seeds of a dictionary and levels of a regime are
averaged first, so that more seeds make its value more precise without adding units. All values are test AUCs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from sae.numerics.statistics import Estimate, mean_interval
from sae.probing.compare import PairedComparison, paired_comparison
from sae.probing.quiver import QuiverChoice, is_control, quiver
from sae.probing.study import ProbeResult

UNTRAINED = "untrained_"
"""The prefix of methods on an untrained dictionary."""


class Condition(NamedTuple):
    """A regime at one level, or averaged over its levels."""

    regime: str
    """The regime."""
    level: float | None
    """The level; None for the average over all levels."""

    def holds(self, regime: str, level: float) -> bool:
        """Whether a result with this regime and level belongs to the condition."""
        return regime == self.regime and self.level in (None, level)


class Outcome(NamedTuple):
    """The test AUC of a method in a condition."""

    setting: str
    """The name of the dictionary's setting; empty for methods on the activations."""
    method: str
    """The name of the method."""
    condition: Condition
    """The condition."""
    auc: Estimate
    """The mean test AUC over tasks."""
    reference: PairedComparison
    """The comparison with the first probe on the activations (`lr` by default)."""
    untrained: PairedComparison | None
    """The comparison with the same method on an untrained dictionary, if there is one."""


class QuiverComparison(NamedTuple):
    """Quivers with and without a dictionary's probes, in a condition."""

    setting: str
    """The name of the dictionary's setting."""
    condition: Condition
    """The condition."""
    without: Estimate
    """The test AUC of the quiver of the probes on the activations."""
    joined: Estimate
    """The test AUC of the quiver of the probes on the activations and on the dictionary."""
    own: Estimate
    """The test AUC of the quiver of the dictionary's probes alone."""
    added: PairedComparison
    """`joined` compared with `without`."""
    alone: PairedComparison
    """`own` compared with the reference probe."""
    taken: float
    """The share of choices in `joined` that fall on a dictionary's probe."""
    unvalidated: float
    """The share of choices in `joined` made by the fixed order because there is no validation."""
    tied: float
    """The share of choices in `joined` made by the fixed order because of a tie."""


class Summary(NamedTuple):
    """The summary of a study."""

    outcomes: list[Outcome]
    """Every method in every condition."""
    helps: list[QuiverComparison]
    """Every setting in every condition."""


ByTask = Mapping[str, float]
"""A value for each task."""


def summary(raw: Sequence[ProbeResult], dictionaries: Mapping[str, Sequence[Sequence[ProbeResult]]]) -> Summary:
    """Summarises the results on the activations and, for each setting, on its dictionaries (one for each seed)."""
    conditions = conditions_of(raw)
    reference = raw[0].method
    outcomes = [
        _outcome("", method, condition, raw, raw, reference) for condition in conditions for method in _methods(raw)
    ]
    helps: list[QuiverComparison] = []
    for setting, members in dictionaries.items():
        results = [result for member in members for result in member]
        outcomes += [_outcome(setting, m, c, results, raw, reference) for c in conditions for m in _methods(results)]
        quivers = [_quivers(raw, member) for member in members]
        helps += [_quiver_comparison(setting, condition, quivers, raw, reference) for condition in conditions]
    return Summary([o for o in outcomes if o.auc.n], [h for h in helps if h.joined.n])


def conditions_of(results: Iterable[ProbeResult]) -> list[Condition]:
    """Every regime as a whole and, if it has several levels, at each of them."""
    levels: dict[str, list[float]] = {}
    for r in results:
        of_regime = levels.setdefault(r.regime, [])
        if r.level not in of_regime:
            of_regime.append(r.level)
    return [
        Condition(regime, level)
        for regime, of_regime in levels.items()
        for level in [None, *(sorted(of_regime) if len(of_regime) > 1 else [])]
    ]


def by_task(results: Iterable[ProbeResult], condition: Condition, method: str | None = None) -> ByTask:
    """The mean test AUC of each task."""
    aucs: dict[str, list[float]] = {}
    for r in results:
        if condition.holds(r.regime, r.level) and method in (None, r.method) and not math.isnan(r.test_auc):
            aucs.setdefault(r.task, []).append(r.test_auc)
    return {task: math.fsum(values) / len(values) for task, values in aucs.items()}


def against(a: ByTask, b: ByTask) -> PairedComparison:
    """``a - b`` over the tasks that both have."""
    tasks = [task for task in a if task in b]
    return paired_comparison([a[task] for task in tasks], [b[task] for task in tasks])


def _methods(results: Iterable[ProbeResult]) -> list[str]:
    return list(dict.fromkeys(r.method for r in results))


def _outcome(
    setting: str,
    method: str,
    condition: Condition,
    results: Sequence[ProbeResult],
    raw: Sequence[ProbeResult],
    reference: str,
) -> Outcome:
    values = by_task(results, condition, method)
    untrained = None if is_control(method) else by_task(results, condition, UNTRAINED + method)
    return Outcome(
        setting,
        method,
        condition,
        mean_interval(list(values.values())),
        against(values, by_task(raw, condition, reference)),
        against(values, untrained) if untrained else None,
    )


class _Quivers(NamedTuple):
    """The choices of the three quivers for one dictionary."""

    without: Sequence[QuiverChoice]
    joined: Sequence[QuiverChoice]
    own: Sequence[QuiverChoice]


def _quivers(raw: Sequence[ProbeResult], member: Sequence[ProbeResult]) -> _Quivers:
    tasks = {result.task for result in member}
    baseline = [result for result in raw if result.task in tasks]
    return _Quivers(*(list(quiver(results).values()) for results in (baseline, [*baseline, *member], member)))


def _quiver_comparison(
    setting: str, condition: Condition, quivers: Sequence[_Quivers], raw: Sequence[ProbeResult], reference: str
) -> QuiverComparison:
    def auc(pick: Callable[[_Quivers], Sequence[QuiverChoice]]) -> ByTask:
        return by_task((choice.result for q in quivers for choice in pick(q)), condition)

    without, joined, own = auc(lambda q: q.without), auc(lambda q: q.joined), auc(lambda q: q.own)
    choices = [c for q in quivers for c in q.joined if condition.holds(c.result.regime, c.result.level)]
    return QuiverComparison(
        setting,
        condition,
        without=mean_interval(list(without.values())),
        joined=mean_interval(list(joined.values())),
        own=mean_interval(list(own.values())),
        added=against(joined, without),
        alone=against(own, by_task(raw, condition, reference)),
        taken=_share(c.result.reading == "codes" for c in choices),
        unvalidated=_share(c.why == "prior" for c in choices),
        tied=_share(c.why == "tie" for c in choices),
    )


def _share(flags: Iterable[bool]) -> float:
    values = list(flags)
    return sum(values) / len(values) if values else math.nan
